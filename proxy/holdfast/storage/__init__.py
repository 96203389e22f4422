"""The disk as the operator sees it: how much of it the store may take, what is evicted for what comes, what is
collected and when, and where the bytes are.

What decides (`budget`, `collection_schedule`, `eviction_policy`, `space_ledger`) does no I/O. The store takes away in
the transaction that looks at the names once more (`holdfast_core/changes/collection.py`)."""
