"""Memory that is received into, and that knows whether a view of it is still held."""

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc


cdef class Block:
    """`size` bytes, not cleared. Taken by `memoryview(block)`; every slice of that counts as the same view."""

    cdef void* memory
    cdef readonly Py_ssize_t size
    cdef Py_ssize_t views

    def __cinit__(self, Py_ssize_t size):
        self.memory = PyMem_RawMalloc(size)
        if self.memory is NULL:
            raise MemoryError
        self.size = size

    def __dealloc__(self):
        PyMem_RawFree(self.memory)

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.memory, self.size, 0, flags)
        self.views += 1

    def __releasebuffer__(self, Py_buffer* buffer):
        self.views -= 1

    @property
    def is_free(self):
        """No view of it is held, so that it can be written to again."""
        return self.views == 0
