"""What answers requests of clients: the endpoints of the distribution API."""
