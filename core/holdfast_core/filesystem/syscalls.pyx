"""The file system calls that Python does not offer: syncfs, room set aside, early writeback, the kind of a file
system, and time since boot."""

from os import strerror

from posix.time cimport CLOCK_BOOTTIME, clock_gettime, timespec

from libc.errno cimport errno

cdef extern from "<unistd.h>" nogil:
    int c_syncfs "syncfs" (int fd)

cdef extern from "<fcntl.h>" nogil:
    int FALLOC_FL_KEEP_SIZE
    unsigned int SYNC_FILE_RANGE_WRITE
    int c_fallocate "fallocate" (int fd, int mode, long long offset, long long length)
    int c_sync_file_range "sync_file_range" (int fd, long long offset, long long length, unsigned int flags)

cdef extern from "<sys/vfs.h>" nogil:
    cdef struct c_statfs "statfs":
        long f_type
    int c_fstatfs "fstatfs" (int fd, c_statfs* out)


cdef refused():
    """The error of the call that was made last."""
    cdef int code = errno
    return OSError(code, strerror(code))


def syncfs(int fd):
    """Write back everything of the file system that holds `fd`. Raises OSError. The GIL is released."""
    cdef int result
    with nogil:
        result = c_syncfs(fd)
    if result != 0:
        raise refused()


def reserve(int fd, long long offset, long long length):
    """Set room on the disk aside for bytes to come; the file's length stays. Raises OSError: ENOSPC when there
    is none, EOPNOTSUPP when the file system cannot. The GIL is released."""
    cdef int result
    with nogil:
        result = c_fallocate(fd, FALLOC_FL_KEEP_SIZE, offset, length)
    if result != 0:
        raise refused()


def start_writeback(int fd, long long offset, long long length):
    """Begin to write a range to the disk without waiting for it. No durability, only less to wait for later
    (sync_file_range(2)). Raises OSError. The GIL is released."""
    cdef int result
    with nogil:
        result = c_sync_file_range(fd, offset, length, SYNC_FILE_RANGE_WRITE)
    if result != 0:
        raise refused()


def filesystem_type(int fd):
    """The kernel's number for the kind of file system that holds `fd` (statfs(2), f_type)."""
    cdef c_statfs out
    if c_fstatfs(fd, &out) != 0:
        raise refused()
    return out.f_type & 0xFFFFFFFF


def since_boot():
    """Seconds since the machine started, suspended time included; never steps (CLOCK_BOOTTIME)."""
    cdef timespec now
    clock_gettime(CLOCK_BOOTTIME, &now)
    return now.tv_sec + now.tv_nsec * 1e-9
