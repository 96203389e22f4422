"""Reading a file as the disk has it, and leaving the page cache as it was.

O_DIRECT reads the disk itself, also where a copy is in memory, and puts nothing into the cache. A file system without it
reads by way of the cache; what that brought in is dropped again, and what clients had in memory before stays. So does
what a client read in meanwhile: its pages are mapped (page_cache.pyx), and the kernel drops no mapped page.
"""

from libc.errno cimport EINTR, EINVAL, errno
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, mmap, munmap
from posix.fcntl cimport F_GETFL, F_SETFL, POSIX_FADV_DONTNEED, POSIX_FADV_RANDOM, fcntl, posix_fadvise
from posix.unistd cimport _SC_PAGESIZE, pread, sysconf

cdef extern from *:
    """
    #include <fcntl.h>
    #ifndef O_DIRECT
    #define O_DIRECT 040000
    #endif
    """
    int O_DIRECT

cdef extern from "<sys/mman.h>" nogil:
    int mincore(void* start, size_t length, unsigned char* vector)

cdef enum:
    #: of a chunk, whatever the size of a page
    PAGES = 256

cdef Py_ssize_t PAGE = sysconf(_SC_PAGESIZE)


def read_past_cache(int fd, Py_ssize_t offset, Py_ssize_t length, unsigned char[::1] target not None):
    """Read [offset, offset + length) of a file into `target`, whose memory begins at a page and has room for whole
    pages; `offset` is a multiple of the page, `length` 1 byte to 1 MiB. Whether all of it could be read. Waits for the
    disk without the GIL."""
    cdef Py_ssize_t room = (length + PAGE - 1) // PAGE * PAGE
    cdef bint whole
    if not 0 < length <= PAGES * 4096 or offset < 0 or offset % PAGE or target.shape[0] < room:
        raise ValueError(f"{length} bytes at {offset} do not fit {target.shape[0]} bytes in pages of {PAGE}")
    with nogil:
        whole = read_range(fd, offset, length, room, &target[0])
    return whole


cdef bint read_range(int fd, Py_ssize_t offset, Py_ssize_t length, Py_ssize_t room, unsigned char* target) noexcept nogil:
    cdef unsigned char[PAGES] before
    cdef Py_ssize_t got = -1
    cdef int flags = fcntl(fd, F_GETFL)
    cdef bint known = resident(fd, offset, room, before)
    if fcntl(fd, F_SETFL, flags | O_DIRECT) == 0:
        got = pread(fd, target, room, offset)
        while got < 0 and errno == EINTR:
            got = pread(fd, target, room, offset)
        fcntl(fd, F_SETFL, flags & ~O_DIRECT)
        if got < 0 and errno != EINVAL:
            return False
    if got < length:  # no way past the cache here, or not for all of it
        got = buffered(fd, offset, length, target)
    if known:
        drop_others(fd, offset, room, before)
    return got >= length


cdef Py_ssize_t buffered(int fd, Py_ssize_t offset, Py_ssize_t length, unsigned char* target) noexcept nogil:
    """By way of the cache, without reading ahead; the bytes that could be read."""
    cdef Py_ssize_t done = 0, got
    posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM)
    while done < length:
        got = pread(fd, target + done, length - done, offset + done)
        if got < 0 and errno == EINTR:
            continue
        if got <= 0:
            break
        done += got
    return done


cdef bint resident(int fd, Py_ssize_t offset, Py_ssize_t room, unsigned char* there) noexcept nogil:
    """Which pages are in memory, one byte a page; whether the kernel said."""
    cdef void* made = mmap(NULL, room, PROT_READ, MAP_SHARED, fd, offset)
    cdef int result
    if made == MAP_FAILED:
        return False
    result = mincore(made, room, there)
    munmap(made, room)
    return result == 0


cdef void drop_others(int fd, Py_ssize_t offset, Py_ssize_t room, unsigned char* before) noexcept nogil:
    """Have the kernel forget the pages that came since `before`, a run at a time."""
    cdef unsigned char[PAGES] now
    cdef Py_ssize_t page = 0, first, count = room // PAGE
    if not resident(fd, offset, room, now):
        return
    while page < count:
        first = page
        while page < count and now[page] & 1 and not before[page] & 1:
            page += 1
        if page > first:
            posix_fadvise(fd, offset + first * PAGE, (page - first) * PAGE, POSIX_FADV_DONTNEED)
        else:
            page += 1
