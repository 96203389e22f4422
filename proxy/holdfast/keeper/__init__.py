"""The one process that writes to the store, and sends requests to parents on behalf of the workers."""
