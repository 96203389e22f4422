cdef Py_ssize_t CHUNK


cdef class PageMap:
    cdef int fd
    cdef bint scan
    cdef Py_ssize_t limit
    cdef readonly Py_ssize_t mapped

    cdef bint has(self, const char* start, Py_ssize_t length) noexcept


cdef class MappedFile:
    cdef readonly PageMap pages
    cdef char* area
    cdef unsigned char* mapped
    cdef readonly Py_ssize_t chunks
    cdef readonly Py_ssize_t count

    cdef bint map(self, int fd, Py_ssize_t chunk, Py_ssize_t length) except -1
    cdef bint has(self, Py_ssize_t chunk, Py_ssize_t at, Py_ssize_t length) noexcept
    cdef int unmap(self, Py_ssize_t chunk) except -1
    cdef int release(self) except -1
