"""Shares the link to the parents: which transfer may use how much of it, and when."""
