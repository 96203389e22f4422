"""Verbs about disk space and the images that a node keeps."""
