"""The HTTP server: sockets, TLS, connections, bodies."""
