"""A connected registry towards its parent: activation, reports, settings, and the protocol between the two."""
