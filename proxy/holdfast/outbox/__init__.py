"""The outbox: pushes, tags and deletes of this node, sent to a parent."""
