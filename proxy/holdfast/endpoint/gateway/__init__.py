"""What answers connected registries below this node: the gateway."""
