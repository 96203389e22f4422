"""The chunk gate: bytes of a chunked body in, its content out (RFC 9112 7.1).

As strict as the head gate, for the same reason: a size that two readers take for two sizes is a request
smuggled past one of them. Every byte between two runs of content is checked, an extension and the trailers
are bounded and dropped, and what comes out does not depend on how the bytes were cut. h11 reads all that it
lets by alike (tests/wire/test_chunks.py). It takes the place of h11, which cannot bound an extension,
takes sizes past 64 bits, and reads chunks of 512 bytes at a hundredth of the speed of SHA-256, of 4 KiB at a
third (benchmarks/micro/test_wire.py): a body that costs its sender little would hold up every connection.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

# RFC 9110 5.6.2: token characters
cdef bint TOKEN[256]
# the value of a hexadecimal digit, -1 for anything else
cdef int HEX[256]
cdef int _i
for _i in range(256):
    TOKEN[_i] = chr(_i) in "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    HEX[_i] = int(chr(_i), 16) if chr(_i) in "0123456789abcdefABCDEF" else -1

cdef enum:
    # 64 bits: a reader that wraps around at one digit more would see another size
    SIZE_DIGITS = 16
    # bytes of one chunk's extension, and of all trailers together (references.md 3.1)
    SPARE_BYTES = 1024
    # the longest name that is looked at
    NAME_BYTES = 24

cdef enum State:
    SIZE
    EXTENSION
    SIZE_LF
    CONTENT
    CONTENT_CR
    CONTENT_LF
    TRAILER
    TRAILER_NAME
    TRAILER_VALUE
    TRAILER_LF
    LAST_LF
    ENDED
    BROKEN


cdef class ChunkReader:
    """One chunked body. `ended`: its last byte was read. `fault` is what was wrong, or ""."""

    cdef readonly str fault
    cdef State state
    cdef unsigned long long left
    cdef int digits
    cdef int spare
    cdef int named
    cdef unsigned char name[NAME_BYTES]

    def __cinit__(self):
        self.fault = ""
        self.state = SIZE
        self.left = 0
        self.digits = self.spare = self.named = 0

    @property
    def ended(self) -> bool:
        """Whether the body is whole."""
        return self.state == ENDED

    def read(self, bytes data):
        """(content, bytes of `data` read). All of `data` is read but for what follows the end or a fault;
        content that came before a fault is handed out."""
        cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(data)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        cdef Py_ssize_t at = 0, out = 0, run
        cdef unsigned char* content
        if self.state == CONTENT and self.left >= <unsigned long long>size:
            self._passed(size)
            return data, size
        content = <unsigned char*>malloc(size + 1)
        if content == NULL:
            raise MemoryError
        try:
            while at < size and self.state != ENDED and self.state != BROKEN:
                if self.state == CONTENT:
                    run = size - at
                    if self.left < <unsigned long long>run:
                        run = <Py_ssize_t>self.left
                    memcpy(content + out, p + at, run)
                    self._passed(run)
                    at += run
                    out += run
                else:
                    self._step(p[at])
                    at += 1
            return PyBytes_FromStringAndSize(<char*>content, out), at
        finally:
            free(content)

    cdef void _passed(self, Py_ssize_t run) noexcept:
        self.left -= <unsigned long long>run
        if self.left == 0:
            self.state = CONTENT_CR

    cdef int _step(self, unsigned char byte) except -1:
        """One byte that is no content."""
        if self.state == SIZE:
            self._size(byte)
        elif self.state == EXTENSION:
            self._extension(byte)
        elif self.state == SIZE_LF:
            self._expect(byte, 10, CONTENT if self.left else TRAILER)
        elif self.state == CONTENT_CR:
            self._expect(byte, 13, CONTENT_LF)
        elif self.state == CONTENT_LF:
            self.digits = 0
            self._expect(byte, 10, SIZE)
        elif self.state == LAST_LF:
            self._expect(byte, 10, ENDED)
        else:
            self._trailer(byte)
        return 0

    cdef int _size(self, unsigned char byte) except -1:
        """chunk-size = 1*HEXDIG, then an extension or the end of the line."""
        if HEX[byte] >= 0:
            if self.digits == SIZE_DIGITS:
                return self._break("the size of a chunk has over 16 digits")
            self.left = (self.left << 4 if self.digits else 0) + HEX[byte]
            self.digits += 1
        elif self.digits == 0:
            return self._break("the size of a chunk is not a hexadecimal number")
        elif byte == 13:
            self.spare = 0
            self.state = SIZE_LF
        elif byte == 59:
            self.spare = 0
            self.state = EXTENSION
        else:
            return self._break("the size of a chunk is not followed by ; or the end of its line")
        return 0

    cdef int _extension(self, unsigned char byte) except -1:
        self.spare += 1
        if byte == 13:
            self.spare = 0
            self.state = SIZE_LF
        elif self.spare > SPARE_BYTES:
            return self._break("the extension of a chunk is over 1024 bytes")
        elif byte < 32 and byte != 9 or byte == 127:
            return self._break("the extension of a chunk holds a control character")
        return 0

    cdef int _trailer(self, unsigned char byte) except -1:
        """*( field-line CRLF ) CRLF, dropped. `spare` counts all of them."""
        self.spare += 1
        if self.spare > SPARE_BYTES:
            return self._break("the trailers are over 1024 bytes")
        if self.state == TRAILER:
            self.named = 0
            if byte == 13:
                self.state = LAST_LF
                return 0
            self.state = TRAILER_NAME
        if self.state == TRAILER_NAME:
            return self._trailer_name(byte)
        if self.state == TRAILER_LF:
            return self._expect(byte, 10, TRAILER)
        if byte == 13:
            self.state = TRAILER_LF
        elif byte < 32 and byte != 9 or byte == 127:
            return self._break("a trailer holds a control character")
        return 0

    cdef int _trailer_name(self, unsigned char byte) except -1:
        if byte == 58 and self.named:
            # RFC 9110 6.5.1: a field that frames is no trailer; one that says so is an attempt at something
            name = self.name[: min(self.named, NAME_BYTES)].lower()
            if name in (b"content-length", b"transfer-encoding"):
                return self._break("a trailer says how long the body is")
            self.state = TRAILER_VALUE
        elif not TOKEN[byte]:
            return self._break("a trailer is folded, or its name is not a token followed by a colon")
        else:
            if self.named < NAME_BYTES:
                self.name[self.named] = byte
            self.named += 1
        return 0

    cdef int _expect(self, unsigned char byte, unsigned char expected, State following) except -1:
        if byte != expected:
            return self._break("a line of the chunked coding does not end where it must")
        self.state = following
        return 0

    cdef int _break(self, str fault) except -1:
        self.fault = fault
        self.state = BROKEN
        return 0
