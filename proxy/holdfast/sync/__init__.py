"""Synchronisation: what this node should hold, what it lacks, and how that is fetched, in rounds by a schedule.

What decides (`plan`, `run_state`, `schedule`, `source.feed`, `source.selection`) does no I/O. `source` says where work
comes from: parents that are polled, or the feed of a Holdfast parent."""
