"""How workers reach the keeper: frames over a Unix socket."""
