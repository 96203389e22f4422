"""Synchronisation, pure: what is due, what is wanted, what to do about it, and how far it is. No sockets, no store, no
event loop; time comes in as `now`. The worker that acts on it lives elsewhere."""
