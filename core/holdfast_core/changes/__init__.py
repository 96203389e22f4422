"""What a write puts into the index: planners, which read the index inside the write transaction and return changes.

change            the view, the change, and the planners for content that was fetched
client_changes    for pushes, mounts, deletes and locks of clients
upstream_removal  for what the parent has no longer, or the replica wants no longer
locks             what is allowed on a repository, manifest or tag
referrers_tag     referrers out of tags that clients keep (references.md 2.9)
resource_rows     documents of the control plane
store_events      the log of changes
outbox_rows       what is still to be sent to the parent
derivation        what follows from a change, and is written with it; derived_tables: all of it, anew
manifest_children  what the body of a manifest names
collection        what is evicted, and what nothing names any more
pins              what is not
transaction       a change outside the thread that commits
access_times      when blobs were read and tags confirmed, written at most once an hour
"""
