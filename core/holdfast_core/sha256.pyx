"""SHA-256 of several streams side by side on one core (sha256.h), by OpenSSL where the processor has no instructions
for it."""

from hashlib import sha256

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t

cdef extern from "sha256.h":
    enum: SHA256_LANES
    ctypedef struct sha256_stream:
        pass
    ctypedef struct sha256_piece:
        sha256_stream* stream
        const uint8_t* at
        size_t length
    bint sha256_is_native() nogil
    void sha256_begin(sha256_stream* stream) nogil
    void sha256_update(sha256_piece* pieces, size_t count) nogil
    void sha256_end(const sha256_stream* stream, uint8_t* digest) nogil

# as the names of the interface
IS_NATIVE = bool(sha256_is_native())
LANES = SHA256_LANES


cdef class Sha256:
    """One stream. `openssl` takes OpenSSL also where the processor could do without. One thread at a time."""

    cdef sha256_stream stream
    cdef object engine

    def __init__(self, *, bint openssl=False):
        self.engine = None if IS_NATIVE and not openssl else sha256()
        sha256_begin(&self.stream)

    def update(self, data):
        """Take the next bytes: any contiguous buffer, any length. The GIL is released while they are hashed."""
        update_together([self], [data])

    def digest(self):
        """32 bytes, of all bytes so far. More may follow."""
        cdef uint8_t digest[32]
        if self.engine is not None:
            return self.engine.digest()
        sha256_end(&self.stream, digest)
        return digest[:32]


def update_together(streams, data):
    """The next bytes of each of up to LANES different streams, hashed side by side. The GIL is released meanwhile.
    Raises ValueError for other streams, TypeError and BufferError for what is no contiguous buffer, before any byte is
    taken."""
    cdef Py_buffer views[SHA256_LANES]
    cdef sha256_piece pieces[SHA256_LANES]
    cdef list takers = list(streams), buffers = list(data)
    cdef Py_ssize_t count = len(takers), held = 0
    cdef size_t native = 0
    cdef Sha256 stream
    if count > SHA256_LANES or len(buffers) != count or len(set(map(id, takers))) != count:
        raise ValueError(
            f"{count} streams and {len(buffers)} buffers; up to {SHA256_LANES} different streams, a buffer each"
        )
    try:
        while held < count:
            stream = takers[held]
            PyObject_GetBuffer(buffers[held], &views[held], PyBUF_SIMPLE)
            if stream.engine is None:
                pieces[native].stream = &stream.stream
                pieces[native].at = <const uint8_t*>views[held].buf
                pieces[native].length = views[held].len
                native += 1
            held += 1
        with nogil:
            sha256_update(pieces, native)
        for stream, piece in zip(takers, buffers):
            if stream.engine is not None:
                stream.engine.update(piece)
    finally:
        while held:
            held -= 1
            PyBuffer_Release(&views[held])
