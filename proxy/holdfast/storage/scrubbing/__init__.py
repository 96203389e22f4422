"""The bytes on the disk are read once a period and compared with their hashes; damage is repaired from a parent.

What decides how fast (`scrub_pace`) does no I/O. The store walks and reads (`holdfast_core/upkeep/disk_scrub.py`)."""
