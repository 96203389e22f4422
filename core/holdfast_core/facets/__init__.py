"""What a caller needs of an open store, each over the same index, directory and writer.

stored_blobs       bytes: reading, verification, pushes
blob_placement     how bytes come to their place, for those above and below
fills              blobs that are being fetched
references         repositories, manifests, tags, locks
parent_lists       lists of tags and referrers that a parent gave
outbox             what is still to go up to the parent
control_documents  documents of the control plane
events             the log of what changed
repeated_reads     whether what was read would be read again
space              where the bytes are, who needs them, what can go
"""
