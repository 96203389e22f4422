"""Reading stored bytes: never one that was not checked since this process started.

A blob is read through a `BlobReader`. What is in the page cache and checked is read on the caller's thread
without waiting (preadv2 with RWF_NOWAIT, straight into a new bytes object); everything else is read on a
thread, and a chunk that was not checked yet is read whole and compared with its BLAKE3 first.

Which chunks are checked, and when, is shared by all readers of a digest in the process. It is tied to the
file's inode and change time, so a file that was replaced or written to starts unchecked.
"""

from blake3 import blake3
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EINTR, errno
from libc.math cimport INFINITY
from libc.stdlib cimport free, malloc
from posix.types cimport off_t
from posix.unistd cimport close as c_close, pread

from holdfast_core.errors import ChunkDamaged

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void* iov_base
        size_t iov_len
    ssize_t preadv2(int fd, const iovec* parts, int count, off_t offset, int flags)
    int RWF_NOWAIT

cdef Py_ssize_t CHUNK = 1 << 20
# Dropping the GIL may cost a fight to get it back when other threads run; a copy of this many bytes out of
# the page cache takes about 5 µs (36 µs for 1 MiB, measured).
cdef Py_ssize_t RELEASE_GIL_BYTES = 128 * 1024


cdef class Verification:
    """When each chunk of one file was last checked, and which are known to be bad."""

    cdef double* checked_at
    cdef readonly Py_ssize_t chunks
    cdef readonly tuple identity
    cdef readonly set bad

    def __cinit__(self, Py_ssize_t chunks, tuple identity, bad):
        cdef Py_ssize_t i
        self.chunks = chunks
        self.identity = identity
        self.bad = set(bad)
        self.checked_at = <double*>malloc(max(chunks, 1) * sizeof(double))
        if self.checked_at == NULL:
            raise MemoryError
        for i in range(chunks):
            self.checked_at[i] = -INFINITY

    def __dealloc__(self):
        free(self.checked_at)

    cdef bint fresh(self, Py_ssize_t chunk, double now, double interval) noexcept:
        return now - self.checked_at[chunk] <= interval

    def forget(self, Py_ssize_t chunk):
        """The chunk counts as unchecked from now on."""
        if 0 <= chunk < self.chunks:
            self.checked_at[chunk] = -INFINITY


cdef class Readers:
    """All readers of one store: their number, the shared verifications, and what they need of the store.

    `expected(digest, chunk)` gives the BLAKE3 of a chunk from the index; `clock()` gives seconds that never
    step; a chunk checked more than `scrub_interval` seconds ago is checked again. At most
    `remembered_chunks` are remembered (8 bytes each); beyond that the blob used longest ago is forgotten,
    which costs a check and nothing else.
    """

    cdef object expected
    cdef object clock
    cdef readonly double scrub_interval
    cdef readonly Py_ssize_t remembered_chunks
    cdef dict verifications
    cdef Py_ssize_t remembered
    cdef readonly Py_ssize_t open
    cdef readonly Py_ssize_t checked
    cdef readonly Py_ssize_t damaged

    def __init__(self, expected, clock, double scrub_interval, Py_ssize_t remembered_chunks=1 << 20):
        self.expected = expected
        self.clock = clock
        self.scrub_interval = scrub_interval
        self.remembered_chunks = remembered_chunks
        self.verifications = {}

    def verification(self, digest, Py_ssize_t size, tuple identity, bad):
        """The shared state for a file; a new one when the file is not the one remembered."""
        cdef Verification found = self.verifications.pop(digest, None)
        if found is not None and found.identity != identity:
            self.remembered -= found.chunks
            found = None
        if found is None:
            found = Verification((size + CHUNK - 1) // CHUNK, identity, bad)
            self.remembered += found.chunks
        else:  # a repair changes the file's identity, so for one identity chunks only turn bad
            found.bad.update(bad)
        self.verifications[digest] = found
        while self.remembered > self.remembered_chunks and len(self.verifications) > 1:
            oldest = next(iter(self.verifications))
            self.remembered -= (<Verification>self.verifications.pop(oldest)).chunks
        return found

    def mark_bad(self, digest, Py_ssize_t chunk):
        """From now on no reader of this process returns a byte of the chunk."""
        found = self.verifications.get(digest)
        if found is not None:
            found.bad.add(chunk)
            found.forget(chunk)

    def mark_repaired(self, digest, Py_ssize_t chunk):
        """The chunk was written again; it is checked at its next read."""
        found = self.verifications.get(digest)
        if found is not None:
            found.forget(chunk)
            found.bad.discard(chunk)


cdef class BlobReader:
    """One open blob. `size` in bytes; `fd` is -1 for a blob that lives in the index.

    The descriptor lives until `close`, or until a read that is under way on another thread returns,
    whichever is later; so a closed reader never reads from a descriptor that was given out again.
    """

    cdef readonly object size
    cdef readonly int fd
    cdef readonly object digest
    cdef Readers readers
    cdef Verification state
    cdef bytes inline
    cdef int busy
    cdef bint closed

    def __cinit__(self):
        self.fd = -1
        self.closed = True

    def __init__(self, Readers readers not None, digest, size, int fd, state, inline):
        self.readers = readers
        self.digest = digest
        self.size = size
        self.fd = fd
        self.state = state
        self.inline = inline
        self.closed = False
        readers.open += 1

    def __dealloc__(self):
        if self.fd >= 0:
            c_close(self.fd)
        if not self.closed and self.readers is not None:
            self.readers.open -= 1

    def close(self):
        """Give the descriptor back. May be called twice."""
        if not self.closed:
            self.closed = True
            self.readers.open -= 1
            self._release()

    cdef int _release(self) except -1:
        if self.closed and self.busy == 0 and self.fd >= 0:
            c_close(self.fd)
            self.fd = -1
        return 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def verified(self, Py_ssize_t offset, Py_ssize_t length):
        """Whether every byte of the range may leave as it is: each chunk was checked since this process
        started, within the scrub interval, and is not quarantined."""
        cdef Py_ssize_t chunk
        cdef double now
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ValueError("range outside the blob")
        if self.state is None or length == 0:
            return not self.closed
        now = self.readers.clock()
        for chunk in range(offset // CHUNK, (offset + length - 1) // CHUNK + 1):
            if not self._usable(chunk, now):
                return False
        return not self.closed

    cdef bint _usable(self, Py_ssize_t chunk, double now) except -1:
        if self.state.bad and chunk in self.state.bad:
            return False
        return self.state.fresh(chunk, now, self.readers.scrub_interval)

    cdef Py_ssize_t _bounded(self, Py_ssize_t offset, Py_ssize_t length) except -1:
        """How much of the range one call may return: at least 1 byte, at most to the end of its chunk."""
        if self.closed:
            raise ValueError("the reader is closed")
        if offset < 0 or length < 1 or offset >= self.size:
            raise ValueError("range outside the blob")
        return min(length, self.size - offset, CHUNK - offset % CHUNK)

    def read_nowait(self, Py_ssize_t offset, Py_ssize_t length):
        """1 to `length` bytes from `offset` if they are checked and in memory, else None. Never waits for a
        disk. Ends at the end of the chunk at the latest."""
        cdef Py_ssize_t wanted = self._bounded(offset, length)
        if self.state is None:
            return self.inline[offset:offset + wanted]
        if not self._usable(offset // CHUNK, self.readers.clock()):
            return None
        return cached_bytes(self.fd, offset, wanted)

    def read(self, Py_ssize_t offset, Py_ssize_t length):
        """1 to `length` bytes from `offset`; for a thread, as it may wait for the disk. A chunk that is not
        checked is read whole and checked first. Raises ChunkDamaged; then no byte of it was returned."""
        cdef Py_ssize_t wanted = self._bounded(offset, length)
        cdef Py_ssize_t chunk = offset // CHUNK
        if self.state is None:
            return self.inline[offset:offset + wanted]
        self.busy += 1
        try:
            if chunk in self.state.bad:
                raise self._damage(chunk)
            if self._usable(chunk, self.readers.clock()):
                data = stored_bytes(self.fd, offset, wanted)
                if data is None:
                    raise self._damage(chunk)
                return data
            data = self._checked(chunk)
            at = offset - chunk * CHUNK
            return data if wanted == len(data) else data[at:at + wanted]
        finally:
            self.busy -= 1
            self._release()

    cdef bytes _checked(self, Py_ssize_t chunk):
        """The whole chunk, after its bytes matched the table."""
        cdef Py_ssize_t start = chunk * CHUNK
        cdef double now = self.readers.clock()
        cdef bytes data = stored_bytes(self.fd, start, min(CHUNK, self.size - start))
        if data is None or blake3(data).digest() != self.readers.expected(self.digest, chunk):
            self.readers.damaged += 1
            self.state.forget(chunk)
            raise self._damage(chunk)
        self.readers.checked += 1
        self.state.checked_at[chunk] = now
        return data

    cdef object _damage(self, Py_ssize_t chunk):
        cdef Py_ssize_t start = chunk * CHUNK
        return ChunkDamaged(str(self.digest), start, min(start + CHUNK, self.size))


cdef bytes cached_bytes(int fd, Py_ssize_t offset, Py_ssize_t length):
    """What the page cache has of the range, or None when its first page is not there (or the file system
    cannot tell)."""
    cdef bytes data = PyBytes_FromStringAndSize(NULL, length)
    cdef iovec part
    cdef ssize_t got
    part.iov_base = PyBytes_AS_STRING(data)
    part.iov_len = length
    if length < RELEASE_GIL_BYTES:
        got = preadv2(fd, &part, 1, offset, RWF_NOWAIT)
    else:
        with nogil:
            got = preadv2(fd, &part, 1, offset, RWF_NOWAIT)
    if got == length:
        return data
    return data[:got] if got > 0 else None


cdef bytes stored_bytes(int fd, Py_ssize_t offset, Py_ssize_t length):
    """The range, waiting for the disk; None when it cannot be read or the file ends early."""
    cdef bytes data = PyBytes_FromStringAndSize(NULL, length)
    cdef char* target = PyBytes_AS_STRING(data)
    cdef Py_ssize_t done = 0
    cdef ssize_t got = 0
    with nogil:
        while done < length:
            got = pread(fd, target + done, length - done, offset + done)
            if got <= 0 and not (got < 0 and errno == EINTR):
                break
            if got > 0:
                done += got
    return data if done == length else None
