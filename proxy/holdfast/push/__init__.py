"""Uploads of blobs: sessions, staging files, hashes."""
