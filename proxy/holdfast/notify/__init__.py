"""Events to others: webhooks, and notices to the parent of a connected registry."""
