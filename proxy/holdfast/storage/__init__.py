"""The disk as the operator sees it: what is collected and when, and where the bytes are.

What decides (`collection_schedule`) does no I/O. The store takes away in the transaction that looks at the names once
more (`holdfast_core/changes/collection.py`)."""
