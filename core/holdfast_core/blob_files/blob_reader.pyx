"""Reading stored bytes: bytes that are read from the disk are hashed before they are returned.

A blob is read through a `BlobReader`. A chunk is read whole and compared with its BLAKE3 before its first byte
leaves, and from then on it is verified as long as the pages that were hashed stay in memory (page_cache.pyx) and the
scrub interval is not over. Verified bytes are read on the caller's thread without waiting (preadv2 with RWF_NOWAIT,
straight into a new bytes object), or sent from the file by a caller that asked `verified`; everything else is read on a
thread.

Which chunks are verified is shared by all readers of a digest in the process. It is tied to the file's inode and
change time, so a file that was replaced or written to starts anew.
"""

from blake3 import blake3
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EINTR, errno
from libc.math cimport INFINITY
from libc.stdlib cimport free, malloc
from posix.fcntl cimport POSIX_FADV_DONTNEED, posix_fadvise
from posix.types cimport off_t
from posix.unistd cimport close as c_close, pread

from holdfast_core.errors import ChunkDamaged
from holdfast_core.blob_files.page_cache cimport CHUNK, MappedFile, PageMap

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void* iov_base
        size_t iov_len
    ssize_t preadv2(int fd, const iovec* parts, int count, off_t offset, int flags)
    int RWF_NOWAIT

# Dropping the GIL may cost a fight to get it back when other threads run; a copy of this many bytes out of
# the page cache takes about 5 µs (36 µs for 1 MiB, measured).
cdef Py_ssize_t RELEASE_GIL_BYTES = 128 * 1024

#: The map of a file that is not read is given up after so long (seconds): as long as there is one, a file that was
#: removed keeps its space on the disk.
IDLE_SECONDS = 5.0


cdef class Verification:
    """Which chunks of one file were hashed, when, and which are known to be bad."""

    cdef double* checked_at
    cdef readonly MappedFile file
    cdef readonly tuple identity
    cdef readonly set bad
    # the BLAKE3 of all chunks, as the index had them when the file was opened first: it has them no more once the blob
    # was evicted, and who has the file open reads on; b"" when they could not be read
    cdef bytes table
    cdef set hashing
    cdef double used_at
    cdef int busy

    def __cinit__(self, MappedFile file not None, tuple identity, bad):
        self.file = file
        self.identity = identity
        self.bad = set(bad)
        self.table = b""
        self.hashing = set()
        self.checked_at = <double*>malloc(max(file.chunks, 1) * sizeof(double))
        if self.checked_at == NULL:
            raise MemoryError
        self.forget_all()

    def __dealloc__(self):
        free(self.checked_at)

    cdef bint fresh(self, Py_ssize_t chunk, double now, double interval) noexcept:
        return now - self.checked_at[chunk] <= interval

    def forget(self, Py_ssize_t chunk):
        """The chunk counts as unchecked from now on."""
        if 0 <= chunk < self.file.chunks:
            self.checked_at[chunk] = -INFINITY

    def forget_all(self):
        """The same of every chunk."""
        for chunk in range(self.file.chunks):
            self.checked_at[chunk] = -INFINITY

    def let_go(self):
        """Forget all, and give up the map; whether it was done. Not while a thread reads by it."""
        if self.busy == 0:
            self.forget_all()
            self.file.release()
        return self.busy == 0


cdef class Readers:
    """All readers of one store: their number, the shared verifications, and what they need of the store.

    `expected(digest, chunk)` gives the BLAKE3 of a chunk from the index, b"" for none, and `table(digest, chunks)` that
    of all chunks; `clock()` gives seconds that never
    step; a chunk checked more than `scrub_interval` seconds ago is checked again. `pages`: see `PageMap`; where it does
    not work, a chunk is checked whenever it is read. At most `remembered_chunks` are remembered; beyond that the blob
    opened longest ago is forgotten, which costs a check and nothing else.
    """

    cdef object expected
    cdef object table
    cdef object clock
    cdef readonly double scrub_interval
    cdef readonly Py_ssize_t remembered_chunks
    cdef readonly PageMap pages
    cdef dict verifications
    cdef Py_ssize_t remembered
    cdef readonly Py_ssize_t open
    cdef readonly Py_ssize_t checked
    cdef readonly Py_ssize_t damaged

    def __init__(
        self,
        expected,
        clock,
        double scrub_interval,
        Py_ssize_t remembered_chunks=1 << 14,
        PageMap pages=None,
        table=None,
    ):
        self.expected = expected
        self.table = table
        self.clock = clock
        self.scrub_interval = scrub_interval
        self.remembered_chunks = remembered_chunks
        self.pages = pages or PageMap()
        self.verifications = {}

    def verification(self, digest, Py_ssize_t size, tuple identity, bad):
        """The shared state for a file; a new one when the file is not the one remembered."""
        cdef Verification known = self.verifications.get(digest)
        if known is not None and known.identity != identity:
            self.forget(digest)
            known = None
        if known is None:
            known = Verification(MappedFile(self.pages, (size + CHUNK - 1) // CHUNK), identity, bad)
            known.table = b"" if self.table is None else self.table(digest, known.file.chunks)
            self.remembered += known.file.chunks
        else:  # a repair changes the file's identity, so for one identity chunks only turn bad
            known.bad.update(bad)
            del self.verifications[digest]
        self.verifications[digest] = known
        while self.remembered > self.remembered_chunks and len(self.verifications) > 1:
            self.forget(next(iter(self.verifications)))
        return known

    def forget(self, digest):
        """A blob's file was replaced, or is to be removed."""
        cdef Verification known = self.verifications.pop(digest, None)
        if known is not None:
            self.remembered -= known.file.chunks
            known.let_go()

    def close(self):
        """Forget every blob. Readers that are still open hash what they read."""
        for digest in list(self.verifications):
            self.forget(digest)
        self.pages.close()

    def let_go(self):
        """Unmap files that were not read for a while. To be called every few seconds."""
        cdef double before = self.clock() - IDLE_SECONDS
        cdef Verification one
        for one in self.verifications.values():
            if one.file.count and one.used_at < before:
                one.let_go()

    def mark_bad(self, digest, Py_ssize_t chunk):
        """From now on no reader of this process returns a byte of the chunk."""
        known = self.verifications.get(digest)
        if known is not None:
            known.bad.add(chunk)
            known.forget(chunk)

    def mark_repaired(self, digest, Py_ssize_t chunk):
        """The chunk was written again; it is checked at its next read."""
        known = self.verifications.get(digest)
        if known is not None:
            known.forget(chunk)
            known.bad.discard(chunk)


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
    # a chunk whose bytes matched and whose pages did not stay: served from here until another one is read
    cdef Py_ssize_t kept_chunk
    #: the kept chunk when `take` gave it: right, whatever its file is; -1 for any other
    cdef Py_ssize_t taken_chunk
    cdef bytes kept
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
        self.kept_chunk = self.taken_chunk = -1
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
            self.kept_chunk, self.taken_chunk, self.kept = -1, -1, None
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
        """Whether every byte of the range may leave as it is in memory: each chunk was hashed within the scrub
        interval, none is quarantined, and the pages that were hashed are all still there. Then no disk is waited for
        either."""
        cdef Py_ssize_t chunk, at, end
        cdef double now
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ValueError("range outside the blob")
        if self.closed:
            return False
        if self.state is None or length == 0:
            return True
        now = self.readers.clock()
        end = offset + length
        while offset < end:
            chunk, at = offset // CHUNK, offset % CHUNK
            length = min(CHUNK - at, end - offset)
            if not (self._usable(chunk, now) and self.state.file.has(chunk, at, length)):
                return False
            offset += length
        return True

    cdef bint _usable(self, Py_ssize_t chunk, double now) except -1:
        self.state.used_at = now
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
        """1 to `length` bytes from `offset` if they are verified and in memory, else None. Never waits for a
        disk. Ends at the end of the chunk at the latest."""
        cdef Py_ssize_t count = self._bounded(offset, length)
        cdef Py_ssize_t chunk = offset // CHUNK, at = offset % CHUNK
        if self.state is None:
            return self.inline[offset:offset + count]
        if chunk == self.kept_chunk and (chunk == self.taken_chunk or chunk not in self.state.bad):
            return self.kept[at:at + count]
        if not self._usable(chunk, self.readers.clock()):
            return None
        data = cached_bytes(self.fd, offset, count)
        # looked at after the copy: pages that are still there are those that it was made of
        return data if data is not None and self.verified(offset, len(data)) else None

    def read(self, Py_ssize_t offset, Py_ssize_t length):
        """1 to `length` bytes from `offset`; for a thread, as it may wait for the disk. A chunk that is not
        verified is read whole and checked first. Raises ChunkDamaged; then no byte of it was returned."""
        cdef Py_ssize_t count = self._bounded(offset, length)
        cdef Py_ssize_t chunk = offset // CHUNK, at = offset % CHUNK
        if self.state is None:
            return self.inline[offset:offset + count]
        self.busy += 1
        self.state.busy += 1
        try:
            if chunk != self.taken_chunk and chunk in self.state.bad:
                raise self._damage(chunk)
            data = self._verified_bytes(offset, count)
            return self._checked(chunk)[at:at + count] if data is None else data
        finally:
            self.state.busy -= 1
            self.busy -= 1
            self._release()

    def mended(self, Py_ssize_t offset):
        """The caller has written the chunk at `offset` again: its next read decides."""
        if self.state is not None:
            self.state.bad.discard(offset // CHUNK)
            self.state.forget(offset // CHUNK)

    def take(self, Py_ssize_t offset, bytes data not None):
        """Serve the chunk that begins at `offset` from these bytes, which its file cannot have, until another one is
        read. Raises ChunkDamaged when they are not the chunk."""
        cdef Py_ssize_t chunk = offset // CHUNK
        if blake3(data).digest() != self._expected(chunk):
            raise self._damage(chunk)
        self.kept_chunk = self.taken_chunk = chunk
        self.kept = data

    cdef bytes _verified_bytes(self, Py_ssize_t offset, Py_ssize_t length):
        """A range of a verified chunk; None when it is not verified, or not any more."""
        cdef Py_ssize_t chunk = offset // CHUNK, at = offset % CHUNK
        if chunk == self.kept_chunk:
            return self.kept[at:at + length]
        if not self.verified(offset, length):
            return None
        data = stored_bytes(self.fd, offset, length)
        return data if data is not None and self.state.file.has(chunk, at, length) else None

    cdef bytes _checked(self, Py_ssize_t chunk):
        """The whole chunk, after its bytes matched the table."""
        cdef Py_ssize_t start = chunk * CHUNK, length = min(CHUNK, self.size - start)
        cdef double now = self.readers.clock()
        cdef bint mapped = False, alone = chunk not in self.state.hashing
        cdef bytes data = PyBytes_FromStringAndSize(NULL, length)
        cdef bint whole
        if alone:  # another thread that maps the chunk anew would make this one's map of no use
            self.state.hashing.add(chunk)
        try:
            # the first read brings it into memory as the kernel does it best, reading ahead; what counts is what a
            # second one finds once the pages are mapped
            whole = read_into(self.fd, start, data)
            if alone and whole:
                self.state.forget(chunk)
                mapped = self.state.file.map(self.fd, chunk, length)
                whole = not mapped or read_into(self.fd, start, data)
            if not whole or blake3(data).digest() != self._expected(chunk):
                self.readers.damaged += 1
                raise self._damage(chunk)
            self.readers.checked += 1
            if mapped and self.state.file.has(chunk, 0, length):
                self.state.checked_at[chunk] = now
            else:
                self.kept_chunk, self.taken_chunk, self.kept = chunk, -1, data
            return data
        except ChunkDamaged:
            if alone:
                self._drop(chunk, length)
            raise
        finally:
            if alone:
                self.state.hashing.discard(chunk)

    cdef object _expected(self, Py_ssize_t chunk):
        """The BLAKE3 of a chunk."""
        return self.readers.expected(self.digest, chunk) or self.state.table[32 * chunk:32 * chunk + 32]

    cdef int _drop(self, Py_ssize_t chunk, Py_ssize_t length) except -1:
        """Have the next read of a bad chunk read the disk again: what is bad may be the copy in memory."""
        self.state.file.unmap(chunk)
        posix_fadvise(self.fd, chunk * CHUNK, length, POSIX_FADV_DONTNEED)
        return 0

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
    return data if read_into(fd, offset, data) else None


cdef bint read_into(int fd, Py_ssize_t offset, bytes data) except -1:
    """Fill a bytes object that no other code has yet, waiting for the disk; whether there was enough to be read."""
    cdef char* target = PyBytes_AS_STRING(data)
    cdef Py_ssize_t done = 0, length = len(data)
    cdef ssize_t got = 0
    with nogil:
        while done < length:
            got = pread(fd, target + done, length - done, offset + done)
            if got <= 0 and not (got < 0 and errno == EINTR):
                break
            if got > 0:
                done += got
    return done == length
