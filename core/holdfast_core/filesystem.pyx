"""The file system calls that Python does not offer: syncfs, the kind of a file system, and time since boot."""

from posix.time cimport CLOCK_BOOTTIME, clock_gettime, timespec

from libc.errno cimport errno

cdef extern from "<unistd.h>" nogil:
    int c_syncfs "syncfs" (int fd)

cdef extern from "<sys/vfs.h>" nogil:
    cdef struct c_statfs "statfs":
        long f_type
    int c_fstatfs "fstatfs" (int fd, c_statfs* out)


def syncfs(int fd):
    """Write back everything of the file system that holds `fd`. Raises OSError. The GIL is released."""
    cdef int result
    with nogil:
        result = c_syncfs(fd)
    if result != 0:
        raise OSError(errno, "syncfs failed")


def filesystem_type(int fd):
    """The kernel's number for the kind of file system that holds `fd` (statfs(2), f_type)."""
    cdef c_statfs out
    if c_fstatfs(fd, &out) != 0:
        raise OSError(errno, "fstatfs failed")
    return out.f_type & 0xFFFFFFFF


def since_boot():
    """Seconds since the machine started, suspended time included; never steps (CLOCK_BOOTTIME)."""
    cdef timespec now
    clock_gettime(CLOCK_BOOTTIME, &now)
    return now.tv_sec + now.tv_nsec * 1e-9
