"""HTTP/1.1 as bytes: heads, framing, ranges, routes. No sockets, no event loop."""
