"""A configured parent: its availability, its content, and pushes to it."""
