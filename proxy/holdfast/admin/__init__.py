"""The admin API: HTTP and JSON for the operator, on a listener of its own."""
