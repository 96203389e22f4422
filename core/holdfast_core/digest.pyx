"""Digests and the hashes taken while bytes arrive.

A digest is parsed once, here, into its algorithm and raw bytes; everything behind it works on raw bytes,
so nothing a client wrote ever becomes a file name or a key.
"""

from hashlib import sha256, sha512

from blake3 import blake3
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_DecodeLatin1

from holdfast_core.errors import MalformedDigest
from holdfast_core.sha256 import LANES, Sha256
from holdfast_core.sha256 import update_together as update_sha256

cdef extern from "Python.h":
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    const unsigned char* PyUnicode_1BYTE_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)

CHUNK_BYTES = 1 << 20

cdef Py_ssize_t CHUNK = 1 << 20
cdef Py_ssize_t PREFIX = 7  # both "sha256:" and "sha512:"
cdef const char* HEX = b"0123456789abcdef"
cdef dict ENGINES = {"sha256": sha256, "sha512": sha512}


cdef inline int nibble(unsigned char c) noexcept:
    if c'0' <= c <= c'9':
        return c - c'0'
    if c'a' <= c <= c'f':
        return c - c'a' + 10
    return -1


cdef bytes unhex(const unsigned char* text, Py_ssize_t raw_length):
    """Raw bytes of lower-case hex, or None."""
    cdef bytes raw = PyBytes_FromStringAndSize(NULL, raw_length)
    cdef unsigned char* out = <unsigned char*>PyBytes_AS_STRING(raw)
    cdef Py_ssize_t i
    cdef int high, low
    for i in range(raw_length):
        high, low = nibble(text[2 * i]), nibble(text[2 * i + 1])
        if high < 0 or low < 0:
            return None
        out[i] = <unsigned char>(high << 4 | low)
    return raw


cdef str hexed(bytes raw):
    cdef const unsigned char* data = <const unsigned char*>PyBytes_AS_STRING(raw)
    cdef char text[128]
    cdef Py_ssize_t i, n = len(raw)
    if n > 64:
        raise MalformedDigest("digest of more than 64 bytes")
    for i in range(n):
        text[2 * i] = HEX[data[i] >> 4]
        text[2 * i + 1] = HEX[data[i] & 15]
    return PyUnicode_DecodeLatin1(text, 2 * n, NULL)


cdef Digest make(str algorithm, bytes raw):
    cdef Digest self = Digest.__new__(Digest)
    self.algorithm = algorithm
    self.raw = raw
    self.hex = hexed(raw)
    self.key = (b"\x01" if algorithm == "sha256" else b"\x02") + raw
    self.text = algorithm + ":" + self.hex
    return self


cdef class Digest:
    """A content address: immutable, hashable, ordered by its text.

    `key` is one algorithm byte (1 sha256, 2 sha512) and `raw`: the form of keys in the index.
    """

    cdef readonly str algorithm
    cdef readonly bytes raw
    cdef readonly str hex
    cdef readonly bytes key
    cdef str text

    def __init__(self):
        raise TypeError("use Digest.parse, Digest.of or Digest.from_key")

    @staticmethod
    def parse(text):
        """The digest written as `sha256:<64 hex>` or `sha512:<128 hex>`, lower case, nothing around it
        (image-spec, descriptor.md, "Digests"). Raises MalformedDigest for anything else."""
        cdef const unsigned char* data
        cdef Py_ssize_t raw_length
        cdef str algorithm
        cdef bytes raw
        if type(text) is not str or not PyUnicode_IS_COMPACT_ASCII(text):
            raise MalformedDigest("a digest is ASCII text")
        if text.startswith("sha256:"):
            algorithm, raw_length = "sha256", 32
        elif text.startswith("sha512:"):
            algorithm, raw_length = "sha512", 64
        else:
            raise MalformedDigest("digest algorithm is not sha256 or sha512")
        if PyUnicode_GET_LENGTH(text) != PREFIX + 2 * raw_length:
            raise MalformedDigest(f"{algorithm} digest is not {2 * raw_length} hex digits")
        data = PyUnicode_1BYTE_DATA(text) + PREFIX
        raw = unhex(data, raw_length)
        if raw is None:
            raise MalformedDigest(f"{algorithm} digest is not lower-case hex")
        return make(algorithm, raw)

    @staticmethod
    def of(data, str algorithm="sha256"):
        """The digest of `data`. The GIL is released while a large buffer is hashed."""
        if algorithm not in ENGINES:
            raise MalformedDigest("digest algorithm is not sha256 or sha512")
        return make(algorithm, ENGINES[algorithm](data).digest())

    @staticmethod
    def from_key(bytes key not None):
        """The inverse of `key`. Raises MalformedDigest."""
        if len(key) == 33 and key[0] == 1:
            return make("sha256", key[1:])
        if len(key) == 65 and key[0] == 2:
            return make("sha512", key[1:])
        raise MalformedDigest("not a digest key")

    def __str__(self):
        return self.text

    def __repr__(self):
        return f"Digest({self.text})"

    def __hash__(self):
        return hash(self.key)

    def __eq__(self, other):
        return self.key == (<Digest>other).key if isinstance(other, Digest) else NotImplemented

    def __lt__(self, other):
        return self.text < (<Digest>other).text if isinstance(other, Digest) else NotImplemented

    def __le__(self, other):
        return self.text <= (<Digest>other).text if isinstance(other, Digest) else NotImplemented

    def __gt__(self, other):
        return self.text > (<Digest>other).text if isinstance(other, Digest) else NotImplemented

    def __ge__(self, other):
        return self.text >= (<Digest>other).text if isinstance(other, Digest) else NotImplemented

    def __reduce__(self):
        return Digest.parse, (self.text,)


def chunk_hash(data):
    """BLAKE3, 32 bytes, of one chunk. The GIL is released while it is hashed."""
    return blake3(data).digest()


cdef class ChunkHasher:
    """Hashes a stream once: the digest of all of it, and BLAKE3 of each 1 MiB chunk.

    The engines release the GIL while they hash, so call `update` on a thread. One thread at a time; others may look at
    `size` and `complete_chunks` meanwhile: no chunk before `size` is missing.
    `openssl` takes OpenSSL for SHA-256 also where the processor could do without.
    """

    cdef object whole
    cdef object open_chunk
    cdef list done
    cdef str algorithm
    cdef bint finished
    cdef readonly object size

    def __init__(self, str algorithm="sha256", *, bint openssl=False):
        if algorithm not in ENGINES:
            raise MalformedDigest("digest algorithm is not sha256 or sha512")
        self.whole = Sha256(openssl=openssl) if algorithm == "sha256" else sha512()
        self.open_chunk = None
        self.done = []
        self.algorithm = algorithm
        self.finished = False
        self.size = 0

    def update(self, data):
        """Take the next bytes: any contiguous buffer, any length."""
        self._check_open()
        self.whole.update(data)
        self._take(data)

    cdef _check_open(self):
        if self.finished:
            raise ValueError("update after table()")

    cdef _take(self, data):
        """Hash by chunks what `whole` has taken."""
        cdef Py_ssize_t at = 0, step, filled = self.size % CHUNK
        with memoryview(data).cast("B") as span:
            while at < len(span):
                step = min(CHUNK - filled, len(span) - at)
                self._feed(span[at:at + step])
                at += step
                filled += step
                if filled == CHUNK:
                    self._close_chunk()
                    filled = 0
                self.size += step  # behind its chunk, for another thread that looks

    cdef _feed(self, piece):
        if self.open_chunk is None:
            self.open_chunk = blake3(piece)
        else:
            self.open_chunk.update(piece)

    cdef _close_chunk(self):
        self.done.append(self.open_chunk.digest())
        self.open_chunk = None

    def digest(self):
        """The digest of all bytes so far. More may follow."""
        return make(self.algorithm, self.whole.digest())

    def complete_chunks(self, Py_ssize_t first=0):
        """Hashes of the chunks from `first` on that are complete so far, in order: for a checkpoint."""
        return self.done[first:]

    def table(self):
        """32 bytes a chunk, the last chunk short. Ends the hasher: `update` raises afterwards."""
        self.finished = True
        if self.open_chunk is not None:
            self._close_chunk()
        return b"".join(self.done)


def update_together(hashers, data):
    """The next bytes of several hashers, each another: as `update` of each, and faster, because SHA-256 of up to LANES
    streams is computed side by side. Raises ValueError, TypeError or BufferError before any byte is taken."""
    cdef ChunkHasher hasher
    cdef list takers = list(hashers), buffers = list(data), pairs = [], others = []
    if len(buffers) != len(takers) or len(set(map(id, takers))) != len(takers):
        raise ValueError(f"{len(takers)} hashers and {len(buffers)} buffers; different hashers, a buffer each")
    for hasher, piece in zip(takers, buffers):
        hasher._check_open()
        (pairs if hasher.algorithm == "sha256" else others).append((hasher, memoryview(piece).cast("B")))
    for first in range(0, len(pairs), LANES):
        some = pairs[first:first + LANES]
        update_sha256([(<ChunkHasher>hasher).whole for hasher, _ in some], [piece for _, piece in some])
        for hasher, piece in some:
            hasher._take(piece)
    for hasher, piece in others:
        hasher.update(piece)
