"""The hit lane: an answer is given again to a request whose head is, byte for byte, one that it was given to.

The ordinary way reads a head, looks the caller, the repository and the content up, and writes an answer. All of that
depends on four things alone: the bytes of the head, a few facts of the connection (`facts`), rows of the store, and the
time. So an answer that the ordinary way has given is kept with the rows that it was made of and the time until which it
is right. It is given again while both hold, with the Date of the moment; then no parser, no route and no rule is needed,
and none can differ.

There is no grammar here. What is not known byte for byte goes the ordinary way, and so does everything behind it.
"""

from collections import OrderedDict

from holdfast_core.errors import StoreError

cdef bytes END = b"\r\n\r\n"
cdef bytes DATE = b"\r\nDate: "
#: of the value of Date (RFC 9110 6.6.1)
cdef Py_ssize_t DATE_BYTES = 29
#: a longer head is not looked for (bytes), and what an answer takes beside its bytes, about
cdef Py_ssize_t HEAD_BYTES = 8192, OBJECT_BYTES = 1024


cdef class RepeatedAnswer:
    """An answer that may be given again. `key` is facts and head of its request, `snapshot` what it was made of. It was
    right at its `moment`, and may be another answer from `until` on. `use` is what the keeper is told of each time, `line`
    its line of the access log."""

    cdef readonly bytes key
    cdef readonly Py_ssize_t head_size
    cdef readonly object snapshot, use, line
    cdef double since, until
    cdef object epoch, state
    #: head and body, with the Date of when it was found last
    cdef readonly bytes data
    cdef str date
    cdef Py_ssize_t date_at
    cdef bint is_noted

    def __init__(
        self,
        bytes facts not None,
        bytes head not None,
        bytes data not None,
        *,
        snapshot,
        moment,
        double until,
        use=None,
        line=None,
    ):
        self.key, self.head_size = facts + head, len(head)
        self.data, self.date, self.date_at = data, "", data.index(DATE) + len(DATE)
        self.snapshot, self.use, self.line = snapshot, use, line
        self.epoch, self.state, self.since = moment
        self.until = until

    @property
    def size(self):
        """Bytes of memory, about."""
        rows = self.snapshot.rows.items()
        held = sum([len(key) + (0 if value is None else len(value)) for key, value in rows])
        return len(self.key) + len(self.data) + held + OBJECT_BYTES

    cdef int _set_date(self, str date) except -1:
        """Another second has begun."""
        if len(date) != DATE_BYTES:
            raise ValueError(f"no date: {date!r}")
        self.data = self.data[: self.date_at] + date.encode() + self.data[self.date_at + DATE_BYTES :]
        self.date = date
        return 0


cdef class HitLane:
    """The answers of one process, up to `limit` bytes; the one that was used longest ago goes first.

    `moment()` is (epoch, state, time): an answer ends with its epoch; in another state of the store `is_same(snapshot)` is
    asked whether what it was made of is still so; the time is in wall seconds. Both may raise StoreError: then nothing is
    known here. `date_of(time)` is the value of Date."""

    cdef object moment, is_same, date_of, answers
    cdef str date
    cdef long long second
    cdef list used
    cdef readonly Py_ssize_t limit, size
    cdef readonly unsigned long long given, compared

    def __init__(self, moment, is_same, date_of, Py_ssize_t limit):
        self.moment, self.is_same, self.date_of, self.limit = moment, is_same, date_of, limit
        self.date, self.second = "", -1
        self.answers = OrderedDict()
        self.used = []

    def __len__(self):
        return len(self.answers)

    def find(self, bytes facts not None, bytes data not None):
        """The answer to the request at the beginning of `data`, None when there is none that is right now."""
        cdef Py_ssize_t end = data.find(END, 0, HEAD_BYTES) + len(END)
        cdef RepeatedAnswer answer
        if end < len(END):
            return None
        found = self.answers.get(facts + (data if end == len(data) else data[:end]))
        if found is None:
            return None
        answer = <RepeatedAnswer?>found
        try:
            is_right = self._is_right(answer)
        except StoreError:
            return None
        if not is_right:
            self._drop(answer)
            return None
        self.answers.move_to_end(answer.key)
        self.given += 1
        if not answer.is_noted and answer.use is not None:
            answer.is_noted = True
            self.used.append(answer)
        return answer

    cdef bint _is_right(self, RepeatedAnswer answer) except -1:
        cdef double now
        epoch, state, now = self.moment()
        if answer.epoch != epoch or not answer.since <= now < answer.until:
            return False
        if answer.state != state:
            self.compared += 1
            if not self.is_same(answer.snapshot):
                return False
            answer.state = state
        if <long long>now != self.second:
            self.date, self.second = self.date_of(now), <long long>now
        if answer.date != self.date:
            answer._set_date(self.date)
        return True

    def learn(self, RepeatedAnswer answer not None):
        """Keep an answer, in place of one to the same request."""
        known = self.answers.get(answer.key)
        if known is not None:
            self._drop(known)
        self.answers[answer.key] = answer
        self.size += answer.size
        while self.size > self.limit:
            self._drop(next(iter(self.answers.values())))

    cdef int _drop(self, RepeatedAnswer answer) except -1:
        del self.answers[answer.key]
        self.size -= answer.size
        return 0

    def take_uses(self):
        """What the answers that were given since the last call were about, each once."""
        used, self.used = self.used, []
        for answer in used:
            (<RepeatedAnswer?>answer).is_noted = False
        return [answer.use for answer in used]
