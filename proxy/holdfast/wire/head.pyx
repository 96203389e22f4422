"""The head gate: finds the end of a request head, bounds it, and refuses what a lenient parser lets by.

RFC 9112 leaves a server room to be lenient, and every lenience is a gap in which two parsers can disagree
about where a request ends. This gate takes none of it: whatever it lets by, h11 reads the same way
(tests/wire/test_head.py holds the two against each other), and it is stricter than h11 where
references.md 3.1 found h11 tolerant. It raises the exception that names the rule that was broken.

A request without a body needs nothing more than this. What follows the head of another one is counted, or
goes through the chunk gate (`holdfast.wire.framing`).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII, PyUnicode_DecodeLatin1
from libc.string cimport memchr, memcmp

from holdfast.errors import (
    ExpectationFailed,
    HeadInvalid,
    HeadTooLarge,
    TargetTooLong,
    VersionUnsupported,
)

# RFC 9110 5.6.2: token characters. One table for the method and for field names.
cdef bint TOKEN[256]
# RFC 9110 7.2 and RFC 3986 3.2.2, without userinfo and percent-encoding: what a Host value may hold.
cdef bint HOST[256]
cdef int _i
for _i in range(256):
    TOKEN[_i] = chr(_i) in "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    HOST[_i] = chr(_i) in ".-_:[]0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

# A length with more digits than this cannot be a length (2^63 has 19, so 18 never overflow).
cdef enum:
    LENGTH_DIGITS = 18


cdef class Head:
    """A request head that broke no rule.

    `length` is the Content-Length, 0 without one; `chunked` says the body is chunked. `headers` are
    (lower-case name, value) pairs in the order sent, values as latin-1 text without outer blanks.
    `host` is the Host value without its port, lower case. `keep_alive` is what the client allows.
    """

    cdef readonly Py_ssize_t size
    cdef readonly str method
    cdef readonly str target
    cdef readonly int minor
    cdef readonly tuple headers
    cdef readonly long long length
    cdef readonly bint chunked
    cdef readonly bint expects
    cdef readonly bint keep_alive
    cdef readonly str host

    @property
    def reads(self) -> bool:
        """Whether it is a GET or HEAD, which take no body."""
        return self.method == "GET" or self.method == "HEAD"

    @property
    def has_body(self) -> bool:
        """Whether bytes of a body follow the head."""
        return self.chunked or self.length > 0


cdef class _Framing:
    """The framing of the body by the header lines read so far."""

    cdef Py_ssize_t lengths, codings, hosts
    cdef bint close


cpdef Py_ssize_t find_end(bytes data, Py_ssize_t start, Py_ssize_t limit) except -2:
    """Index after the blank line that ends the head, or -1 when it has not arrived yet.

    `start` is how many bytes an earlier call looked at. Raises `HeadInvalid` at the first bare LF or when
    the first byte cannot start a request (a TLS hello on a plain port, for one), `HeadTooLarge` or
    `TargetTooLong` when `limit` bytes hold no end. The outcome does not depend on how the bytes were cut.
    """
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(data)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef Py_ssize_t stop = size if size < limit else limit
    cdef Py_ssize_t at = start
    cdef const unsigned char* line_end
    if size and not TOKEN[p[0]]:
        raise HeadInvalid("a request starts with a method")
    while at < stop:
        line_end = <const unsigned char*>memchr(p + at, 10, stop - at)
        if line_end == NULL:
            break
        at = line_end - p + 1
        if at < 2 or p[at - 2] != 13:
            raise HeadInvalid("a line ends with a bare LF")
        if at >= 4 and p[at - 3] == 10 and p[at - 4] == 13:
            return at
    if size >= limit:
        if memchr(p, 10, stop) == NULL:
            raise TargetTooLong(f"no end of the request line within {limit} bytes")
        raise HeadTooLarge(f"the head is over {limit} bytes")
    return -1


cpdef Head parse(bytes data, Py_ssize_t end, Py_ssize_t target_limit, Py_ssize_t header_limit):
    """The head in `data[:end]`, `end` as `find_end` gave it. Raises a `holdfast.errors.ClientMistake`."""
    cdef const unsigned char* p = <const unsigned char*>PyBytes_AS_STRING(data)
    cdef Head head = Head.__new__(Head)
    _require_lines(p, end)
    cdef Py_ssize_t at = _request_line(p, end - 2, target_limit, head)
    head.size = end
    _fields(p, at, end - 2, header_limit, head)
    return head


cdef int _require_lines(const unsigned char* p, Py_ssize_t end) except -1:
    """Raises HeadInvalid for a CR that no LF follows (RFC 9112 2.2): some parsers take it for the end of a line. The head
    ends with a LF, so there is a byte behind each CR."""
    cdef const unsigned char* cr = <const unsigned char*>memchr(p, 13, end)
    while cr != NULL:
        if cr[1] != 10:
            raise HeadInvalid("a bare CR")
        cr = <const unsigned char*>memchr(cr + 2, 13, p + end - cr - 2)
    return 0


cdef Py_ssize_t _request_line(
    const unsigned char* p, Py_ssize_t end, Py_ssize_t limit, Head head
) except -1:
    """RFC 9112 3: method SP request-target SP HTTP-version CRLF, one space each. Returns the next line."""
    cdef Py_ssize_t space = 0, at
    while TOKEN[p[space]]:
        space += 1
    if p[space] != 32:
        raise HeadInvalid("the method is not a token followed by one space")
    head.method = _method(p, space)
    at = space + 1
    while 32 < p[at] < 127 and p[at] != 35:  # VCHAR; a fragment (#) is never sent
        at += 1
    if p[at] != 32:
        raise HeadInvalid("the request target is not printable ASCII followed by one space")
    _version(p, at + 1, head)
    if p[space + 1] != 47:  # origin-form only; absolute-form, authority-form and * route elsewhere
        raise HeadInvalid("the request target does not start with /")
    if at - space - 1 > limit:
        raise TargetTooLong(f"the request target is over {limit} bytes")
    head.target = PyUnicode_DecodeASCII(<char*>p + space + 1, at - space - 1, NULL)
    return at + 11


cdef str _method(const unsigned char* p, Py_ssize_t size):
    if size == 3 and memcmp(p, b"GET", 3) == 0:
        return "GET"
    if size == 4 and memcmp(p, b"HEAD", 4) == 0:
        return "HEAD"
    return PyUnicode_DecodeASCII(<char*>p, size, NULL)


cdef int _version(const unsigned char* p, Py_ssize_t at, Head head) except -1:
    """RFC 9112 2.3. The line is followed by CRLF CRLF at least, so 10 bytes can be looked at while they match."""
    cdef int i = 0
    cdef const unsigned char* name = b"HTTP/"
    while i < 5:
        if p[at + i] != name[i]:
            raise HeadInvalid("the request line does not end with an HTTP version")
        i += 1
    if not (48 <= p[at + 5] <= 57 and p[at + 6] == 46 and 48 <= p[at + 7] <= 57 and p[at + 8] == 13):
        raise HeadInvalid("the request line does not end with an HTTP version")
    if p[at + 5] != 49 or p[at + 7] > 49:
        raise VersionUnsupported("this server speaks HTTP/1.0 and HTTP/1.1")
    head.minor = p[at + 7] - 48
    return 0


cdef int _fields(
    const unsigned char* p, Py_ssize_t at, Py_ssize_t end, Py_ssize_t limit, Head head
) except -1:
    """RFC 9112 5: field-line = field-name ":" OWS field-value OWS CRLF."""
    cdef list fields = []
    cdef _Framing framing = _Framing.__new__(_Framing)
    cdef Py_ssize_t colon, first, last, line_end
    cdef str name
    while at < end:
        if len(fields) >= limit:
            raise HeadTooLarge(f"over {limit} header lines")
        colon = at
        while TOKEN[p[colon]]:
            colon += 1
        if colon == at or p[colon] != 58:
            raise HeadInvalid("a header line is folded, or its name is not a token followed by a colon")
        line_end = _value_end(p, colon + 1)
        first, last = colon + 1, line_end
        while first < last and (p[first] == 32 or p[first] == 9):
            first += 1
        while last > first and (p[last - 1] == 32 or p[last - 1] == 9):
            last -= 1
        name = _lower(p, at, colon)
        value = PyUnicode_DecodeLatin1(<char*>p + first, last - first, NULL)
        fields.append((name, value))
        if colon - at in (4, 6, 10, 14, 17):
            _framed(p, first, last, name, value, head, framing)
        at = line_end + 2
    head.headers = tuple(fields)
    return _framing_agrees(head, framing)


cdef Py_ssize_t _value_end(const unsigned char* p, Py_ssize_t at) except -1:
    """Index of the CR that ends the line. RFC 9110 5.5: no control character but HTAB in a value."""
    while p[at] >= 32 and p[at] != 127 or p[at] == 9:
        at += 1
    if p[at] != 13:
        raise HeadInvalid("a header value holds a control character")
    return at


cdef str _lower(const unsigned char* p, Py_ssize_t start, Py_ssize_t end):
    cdef unsigned char buffer[64]
    cdef Py_ssize_t i
    if end - start > 64:
        return PyUnicode_DecodeASCII(<char*>p + start, end - start, NULL).lower()
    for i in range(end - start):
        buffer[i] = p[start + i] + 32 if 65 <= p[start + i] <= 90 else p[start + i]
    return PyUnicode_DecodeASCII(<char*>buffer, end - start, NULL)


cdef int _framed(
    const unsigned char* p, Py_ssize_t first, Py_ssize_t last, str name, str value, Head head, _Framing framing
) except -1:
    """Note the value of a header line on framing, the connection or the authority."""
    if name == "host":
        framing.hosts += 1
        head.host = _host(p, first, last, value)
    elif name == "content-length":
        framing.lengths += 1
        head.length = _length(p, first, last)
    elif name == "transfer-encoding":
        framing.codings += 1
        if value.lower() != "chunked":
            raise HeadInvalid("the only transfer coding taken is chunked")
        head.chunked = True
    elif name == "expect":
        if value.lower() != "100-continue":
            raise ExpectationFailed("the only expectation met is 100-continue")
        head.expects = True
    elif name == "connection":
        framing.close = framing.close or "close" in [t.strip().lower() for t in value.split(",")]
    return 0


cdef long long _length(const unsigned char* p, Py_ssize_t first, Py_ssize_t last) except -1:
    """RFC 9110 8.6: Content-Length = 1*DIGIT. A list of equal lengths is refused, not merged."""
    cdef long long length = 0
    if not 0 < last - first <= LENGTH_DIGITS:
        raise HeadInvalid("Content-Length is not a number of at most 18 digits")
    while first < last:
        if not 48 <= p[first] <= 57:
            raise HeadInvalid("Content-Length is not a number")
        length = length * 10 + (p[first] - 48)
        first += 1
    return length


cdef str _host(const unsigned char* p, Py_ssize_t first, Py_ssize_t last, str value):
    """Host without its port, lower case. RFC 9110 7.2: uri-host [ ":" port ]."""
    while first < last:
        if not HOST[p[first]]:
            raise HeadInvalid("Host holds a character that no host has")
        first += 1
    if value.startswith("["):
        return value[: value.find("]") + 1].lower()
    return value.partition(":")[0].lower()


cdef int _framing_agrees(Head head, _Framing framing) except -1:
    """RFC 9112 6.1, 6.3: one way to find the end of the body, or none."""
    if framing.hosts > 1 or (framing.hosts == 0 and head.minor == 1):
        raise HeadInvalid("Host must be given once")
    if framing.lengths + framing.codings > 1:
        raise HeadInvalid("more than one header line says how long the body is")
    if head.chunked and head.minor == 0:
        raise HeadInvalid("HTTP/1.0 has no Transfer-Encoding")
    if head.reads and (head.chunked or head.length > 0):
        raise HeadInvalid("GET and HEAD take no body")
    if head.host is None:
        head.host = ""
    head.expects = head.expects and head.minor == 1
    head.keep_alive = head.minor == 1 and not framing.close
    return 0
