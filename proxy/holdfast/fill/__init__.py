"""Blobs on their way in from a parent, and who reads them meanwhile."""
