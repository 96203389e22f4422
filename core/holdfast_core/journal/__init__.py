"""The append-only copy of the index, and the thread that commits to both.

group_commit  the one thread that commits, many operations at a time
journal_file  appending, syncing, cutting off, reading
frame         the layout of the file (docs/format.md)
replay        frames that the index does not have, applied again when a store is opened
compaction    the journal written again while the store serves
salvage       records out of damaged frames
"""
