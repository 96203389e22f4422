"""What a client gets of content that is not here: it is brought from the parent."""
