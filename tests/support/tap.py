"""How many bytes TCP carried over an interface, each counted once.

A byte that TCP sends again (its segment or the acknowledgement was lost in a cut, or the receiver's kernel had no room
for it) has the sequence number it had before. The counters of an interface cannot tell those apart, and how many there
are depends on how busy the machine is; what HTTP asked for does not.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
import threading

SO_ATTACH_FILTER, SO_RCVBUFFORCE = 26, 33
SOL_PACKET, PACKET_STATISTICS = 263, 6
ALL_PROTOCOLS, IPV4 = 3, 0x0800
#: Ethernet, and the longest headers of IPv4 and TCP
HEAD_BYTES = 14 + 60 + 60
#: what a queue that nobody reads for a minute may hold; the kernel counts a packet as more than it is
QUEUE_BYTES = 1 << 30
SYN = 0x02


class Flow:
    """One direction of one connection: which bytes of it were seen, by their distance from the first."""

    def __init__(self, first: int) -> None:
        self._first = first
        self._seen: list[tuple[int, int]] = []

    def add(self, sequence: int, size: int) -> None:
        """A segment with so many bytes, at its sequence number."""
        start = (sequence - self._first) & 0xFFFF_FFFF
        end = start + size
        if self._seen and start == self._seen[-1][1]:
            self._seen[-1] = (self._seen[-1][0], end)
            return
        found: list[tuple[int, int]] = []
        for one in sorted([*self._seen, (start, end)]):
            if found and one[0] <= found[-1][1]:
                found[-1] = (found[-1][0], max(found[-1][1], one[1]))
            else:
                found.append(one)
        self._seen = found

    @property
    def unique(self) -> int:
        """Bytes, each once."""
        return sum(end - start for start, end in self._seen)


class Tap:
    """Listens at an interface of this network namespace. Packets wait in the kernel until they are counted."""

    def __init__(self, interface: str) -> None:
        self._lock = threading.Lock()
        self._flows: dict[bytes, Flow] = {}
        self._finished = 0
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, QUEUE_BYTES)
        # one instruction: accept, and keep the head alone
        program = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, HEAD_BYTES))
        self._socket.setsockopt(
            socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program))
        )
        self._socket.bind((interface, ALL_PROTOCOLS))

    def unique(self) -> int:
        """Bytes of payload both ways since it was made, each once. Raises AssertionError if the kernel dropped a packet
        before it was counted."""
        with self._lock:
            self._drain()
            _, dropped = struct.unpack("II", self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
            assert not dropped, f"{dropped} packets were not counted: QUEUE_BYTES is too small"
            return self._finished + sum(flow.unique for flow in self._flows.values())

    def close(self) -> None:
        self._socket.close()

    def _drain(self) -> None:
        while True:
            try:
                self._count(self._socket.recv(HEAD_BYTES))
            except BlockingIOError:
                return
            except OSError as failed:
                if failed.errno != errno.ENETDOWN:  # said once after each cut
                    raise

    def _count(self, packet: bytes) -> None:
        kind, version, length, protocol = struct.unpack_from("!12xHBxH5xB", packet)
        if kind != IPV4 or protocol != socket.IPPROTO_TCP:
            return
        head = 14 + (version & 0x0F) * 4
        sequence, offset, flags = struct.unpack_from("!4xI4xBB", packet, head)
        size = length - (head - 14) - (offset >> 4) * 4
        ends = packet[26:34] + packet[head : head + 4]
        if flags & SYN:
            old = self._flows.get(ends)
            self._finished += old.unique if old else 0
            self._flows[ends] = Flow((sequence + 1) & 0xFFFF_FFFF)
        elif size:
            self._flows.setdefault(ends, Flow(sequence)).add(sequence, size)
