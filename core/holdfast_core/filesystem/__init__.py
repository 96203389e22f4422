"""What the store does with a file system, below every layout.

directory       the files of a store: paths, the lock of the writer, blobs, fills, quarantine
store_identity  store.json
files           pieces of work on files that several parts do the same way
disk_state      what the disk lets a store do, from the error numbers that it gave
reserved_space  blocks kept for the writes that make room
syscalls        the system calls that Python does not offer
"""
