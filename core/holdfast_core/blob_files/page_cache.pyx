"""Whether the pages of a file that were hashed are still the ones in memory.

To be in memory is not enough: a page may have been evicted and read in again, by another process, by readahead or by
a backup, and what came the second time was not hashed. But the kernel takes a page out of every process's map before
it evicts it, and only a fault of the process itself puts one back. So a process that maps pages, hashes them and later
finds them all in its map (/proc/self/pagemap) knows that they are the same. The map serves for this and nothing else:
no byte is read through it, so a file that is cut short or a sector that cannot be read is an error and never a signal.
"""

import os

from libc.stdint cimport uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from posix.mman cimport (
    MAP_ANONYMOUS,
    MAP_FAILED,
    MAP_FIXED,
    MAP_NORESERVE,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_NONE,
    PROT_READ,
    mmap,
    munmap,
)
from posix.unistd cimport _SC_PAGESIZE, close as c_close, pread, sysconf

cdef extern from *:
    """
    #include <stdint.h>
    #include <sys/ioctl.h>
    /* PAGEMAP_SCAN of linux/fs.h (Linux 6.7), written out for builds with older headers */
    struct holdfast_region { uint64_t start, end, categories; };
    struct holdfast_scan {
        uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
        uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
    };
    #define HOLDFAST_SCAN _IOWR('f', 16, struct holdfast_scan)
    #define HOLDFAST_PRESENT (1 << 3)

    /* 0: every page of [start, end) is in the map; 1: one is not; -1: this kernel lacks the call */
    static int holdfast_absent(int pagemap, uint64_t start, uint64_t end)
    {
        struct holdfast_region region;
        struct holdfast_scan scan = {
            .size = sizeof(scan), .start = start, .end = end,
            .vec = (uintptr_t)&region, .vec_len = 1, .max_pages = 1,
            .category_inverted = HOLDFAST_PRESENT, .category_mask = HOLDFAST_PRESENT,
            .return_mask = HOLDFAST_PRESENT,
        };
        return ioctl(pagemap, HOLDFAST_SCAN, &scan);
    }
    """
    int holdfast_absent(int pagemap, uint64_t start, uint64_t end) nogil

cdef extern from *:
    """
    #include <unistd.h>
    #include <sys/syscall.h>
    /* cachestat(2) of Linux 6.5: the number of pages of a range that are in memory; -1: this kernel lacks the call */
    static int64_t holdfast_cached(int fd, uint64_t offset, uint64_t length)
    {
        uint64_t range[2] = { offset, length }, statistics[5];
        return syscall(451, fd, range, statistics, 0) == 0 ? (int64_t)statistics[0] : -1;
    }
    """
    long long holdfast_cached(int fd, uint64_t offset, uint64_t length) nogil

cdef extern from "<sys/mman.h>" nogil:
    int mincore(void* start, size_t length, unsigned char* vector)

CHUNK = 1 << 20
cdef Py_ssize_t PAGE = sysconf(_SC_PAGESIZE)
# A fault maps neighbours that happen to be in memory, up to the end of the mapping. So each chunk is a mapping of
# its own, with a page between that is never there: else a fault in one would put pages back into the next.
cdef Py_ssize_t STRIDE = CHUNK + PAGE
# an entry of /proc/pid/pagemap: the page is in the map
cdef uint64_t PRESENT = <uint64_t>1 << 63
cdef int RESERVED = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
cdef enum:
    ENTRIES = 256


def in_memory(int fd, Py_ssize_t offset, Py_ssize_t length, *, bint cachestat=True):
    """Whether all pages of a range of a file are in memory now, whichever process read them in: about 10 µs a MiB. By
    cachestat where the kernel has it (Linux 6.5), else by mincore on a temporary map. False where neither works."""
    cdef Py_ssize_t first = offset // PAGE, count = (offset + length + PAGE - 1) // PAGE - first
    cdef long long cached = holdfast_cached(fd, first * PAGE, count * PAGE) if cachestat else -1
    if cached >= 0:
        return cached >= count
    cdef void* made = mmap(NULL, count * PAGE, PROT_READ, MAP_SHARED, fd, first * PAGE)
    if made == MAP_FAILED:
        return False
    cdef bytearray there = bytearray(count)
    cdef int result = mincore(made, count * PAGE, there)
    munmap(made, count * PAGE)
    return result == 0 and all(page & 1 for page in there)


cdef class PageMap:
    """The kernel's information on this process's own maps. `scan`: by the call of Linux 6.7, which takes a third of
    the time of reading the entries. At most `limit` chunks are mapped at a time: each takes two of the 65,530 mappings
    that Linux allows a process."""

    def __cinit__(self, path="/proc/self/pagemap", bint scan=True, Py_ssize_t limit=1 << 14):
        self.scan = scan
        self.limit = limit
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self.fd = -1

    def __dealloc__(self):
        if self.fd >= 0:
            c_close(self.fd)

    def close(self):
        """Give the descriptor back; no page is known to be there any more. May be called twice."""
        if self.fd >= 0:
            c_close(self.fd)
            self.fd = -1

    @property
    def works(self):
        """Whether it can be read here. Where not, no page is ever known to be there."""
        return self.fd >= 0

    cdef bint has(self, const char* start, Py_ssize_t length) noexcept:
        """Whether all pages of a range are there: about 2 µs a MiB. The GIL is held, so no map changes meanwhile."""
        cdef uint64_t[ENTRIES] entries
        cdef uint64_t page = <uintptr_t>start // PAGE, end = (<uintptr_t>start + length + PAGE - 1) // PAGE
        cdef Py_ssize_t count, i
        if self.fd < 0:
            return False
        if self.scan:
            absent = holdfast_absent(self.fd, page * PAGE, end * PAGE)
            if absent >= 0:
                return absent == 0
            self.scan = False
        while page < end:
            count = min(ENTRIES, <Py_ssize_t>(end - page))
            if pread(self.fd, entries, count * 8, page * 8) != count * 8:
                return False
            for i in range(count):
                if not entries[i] & PRESENT:
                    return False
            page += count
        return True


cdef class MappedFile:
    """A place for each chunk of one file in this process's address space. Nothing is mapped until `map`."""

    def __cinit__(self, PageMap pages not None, Py_ssize_t chunks):
        self.pages = pages
        self.chunks = chunks
        self.mapped = <unsigned char*>calloc(max(chunks, 1), 1)
        if self.mapped == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.area != NULL:
            munmap(self.area, self.chunks * STRIDE)
        if self.pages is not None:
            self.pages.mapped -= self.count
        free(self.mapped)

    cdef bint map(self, int fd, Py_ssize_t chunk, Py_ssize_t length) except -1:
        """Read a chunk into memory, on this thread, and map its pages anew. Whether it was done; pages that could
        not be read are not there. `release` may not be called meanwhile."""
        cdef void* made
        if self.pages.fd < 0 or self.pages.mapped >= self.pages.limit:
            return False
        if self.area == NULL:
            made = mmap(NULL, self.chunks * STRIDE, PROT_NONE, RESERVED, -1, 0)
            if made == MAP_FAILED:
                return False
            self.area = <char*>made
        with nogil:
            made = mmap(
                self.area + chunk * STRIDE,
                length,
                PROT_READ,
                MAP_SHARED | MAP_FIXED | MAP_POPULATE,
                fd,
                chunk * CHUNK,
            )
        if made == MAP_FAILED:
            return False
        if not self.mapped[chunk]:
            self.mapped[chunk] = 1
            self.count += 1
            self.pages.mapped += 1
        return True

    cdef bint has(self, Py_ssize_t chunk, Py_ssize_t at, Py_ssize_t length) noexcept:
        """Whether the pages of [at, at + length) of a chunk stayed in memory since `map`."""
        return self.mapped[chunk] and self.pages.has(self.area + chunk * STRIDE + at, length)

    cdef int unmap(self, Py_ssize_t chunk) except -1:
        """Unmap the pages of one chunk."""
        if self.mapped[chunk]:
            mmap(self.area + chunk * STRIDE, CHUNK, PROT_NONE, RESERVED | MAP_FIXED, -1, 0)
            self.mapped[chunk] = 0
            self.count -= 1
            self.pages.mapped -= 1
        return 0

    cdef int release(self) except -1:
        """Unmap all pages and release the address space."""
        if self.area != NULL:
            munmap(self.area, self.chunks * STRIDE)
            self.area = NULL
            self.pages.mapped -= self.count
            self.count = 0
            memset(self.mapped, 0, self.chunks)
        return 0
