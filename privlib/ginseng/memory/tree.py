"""An SGX-MEE-like DRAM: 64-byte lines, counters and MACs in DRAM, a counter tree whose root stays on chip.

A counter line holds eight 56-bit counters, one for each child, and an 8-byte MAC under the counter that its parent
holds for it. Level 0 counts writes of data lines. Writing a data line raises one counter on every level, so that no
old line, with whatever old counters, verifies again (Gueron, ePrint 2016/204). MACs are AES-CMAC cut to 64 bits, as
MEE's are short too.
"""

import struct

from cryptography.hazmat.primitives import constant_time
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.cmac import CMAC

from privlib.ginseng.errors import IntegrityError, ProtectionError
from privlib.ginseng.memory.dram import LINE_BYTES
from privlib.ginseng.memory.encrypted import ExternalDram, Observer
from privlib.ginseng.memory.traffic import MEE_ARITY
from privlib.ginseng.vta.program import VtaProgram

COUNTER_BYTES = 7
MAC_BYTES = 8
LAST_COUNT = (1 << 8 * COUNTER_BYTES) - 1


class TreeDram(ExternalDram):
    """Mode `mee`. Reading verifies the line's MAC and every counter line up to the root."""

    def __init__(self, program: VtaProgram, key: bytes, observer: Observer | None = None) -> None:
        super().__init__(program, observer)
        self._encryption, self._authentication = (self._derive(key, label) for label in (b"encrypt", b"authenticate"))
        lines = self.data_end // LINE_BYTES
        self._macs = len(self.dram)
        self._grow(lines * MAC_BYTES)
        self._levels: list[int] = []
        count = -(-lines // MEE_ARITY)
        while True:
            self._levels.append(len(self.dram))
            self._grow(count * LINE_BYTES)
            if count == 1:
                break
            count = -(-count // MEE_ARITY)
        self._root = 0
        for level in range(len(self._levels)):
            end = self._levels[level + 1] if level + 1 < len(self._levels) else len(self.dram)
            for node in range((end - self._levels[level]) // LINE_BYTES):
                self._put_node(level, node, [0] * MEE_ARITY, 0)

    @staticmethod
    def _derive(key: bytes, label: bytes) -> bytes:
        mac = CMAC(algorithms.AES(key))
        mac.update(label)
        return mac.finalize()

    def dependent(self, address: int) -> tuple[int, int] | None:
        """The line that the byte is part of, or whose MAC it is part of, or the first line under its counter line."""
        if address < self._macs:
            line = address // LINE_BYTES
        elif address < self._levels[0]:
            line = (address - self._macs) // MAC_BYTES
        else:
            level = max(n for n, start in enumerate(self._levels) if start <= address)
            return self._line((address - self._levels[level]) // LINE_BYTES * MEE_ARITY ** (level + 1))
        start, end = self._line(line)
        return (start, end) if any(r.base < end and start < r.end for r in self.regions) else None

    def tag_span(self, address: int) -> tuple[int, int] | None:
        at = self._macs + address // LINE_BYTES * MAC_BYTES
        return at, at + MAC_BYTES

    @staticmethod
    def _line(line: int) -> tuple[int, int]:
        return line * LINE_BYTES, (line + 1) * LINE_BYTES

    def read(self, start: int, end: int) -> bytes:
        """Bytes [start, end) from whole verified lines. IntegrityError for a line that is not the last one written."""
        first, last = start // LINE_BYTES, -(-end // LINE_BYTES)
        data = b"".join(self._open(line) for line in range(first, last))
        return data[start - first * LINE_BYTES : end - first * LINE_BYTES]

    def write(self, start: int, data: bytes) -> None:
        """Write whole lines; lines covered in part are read and verified first."""
        end = start + len(data)
        for line in range(start // LINE_BYTES, -(-end // LINE_BYTES)):
            low, high = max(start, line * LINE_BYTES), min(end, (line + 1) * LINE_BYTES)
            part = data[low - start : high - start]
            if len(part) < LINE_BYTES:
                old = bytearray(self._open(line))
                old[low - line * LINE_BYTES : high - line * LINE_BYTES] = part
                part = bytes(old)
            self._seal(line, part)

    def _open(self, line: int) -> bytes:
        count = self._path(line)[0][1][line % MEE_ARITY]
        if count == 0:
            return bytes(LINE_BYTES)
        sealed = self._bus_read(line * LINE_BYTES, (line + 1) * LINE_BYTES)
        at = self._macs + line * MAC_BYTES
        if not constant_time.bytes_eq(self._bus_read(at, at + MAC_BYTES), self._mac(b"data", line, count, sealed)):
            raise IntegrityError(
                f"line {line} (address {line * LINE_BYTES}) is not what was written: flipped, moved or "
                "replayed in DRAM; stop and wipe the session"
            )
        return self._encrypt(line, count, sealed)

    def _seal(self, line: int, data: bytes) -> None:
        path = self._path(line)
        self._root += 1
        above = self._root
        for level in reversed(range(len(path))):
            node, counters = path[level]
            child = line // MEE_ARITY**level % MEE_ARITY
            if counters[child] >= LAST_COUNT:
                raise ProtectionError(f"a counter of level {level} is used up; load the model under a new key")
            counters[child] += 1
            self._put_node(level, node, counters, above)
            above = counters[child]
        sealed = self._encrypt(line, above, data)
        self._bus_write(line * LINE_BYTES, sealed)
        self._bus_write(self._macs + line * MAC_BYTES, self._mac(b"data", line, above, sealed))

    def _path(self, line: int) -> list[tuple[int, list[int]]]:
        """Node number and verified counters of each level, level 0 first."""
        path: list[tuple[int, list[int]]] = []
        above = self._root
        for level in reversed(range(len(self._levels))):
            node = line // MEE_ARITY ** (level + 1)
            counters = self._node(level, node, above)
            path.insert(0, (node, counters))
            above = counters[line // MEE_ARITY**level % MEE_ARITY]
        return path

    def _node(self, level: int, node: int, above: int) -> list[int]:
        start = self._levels[level] + node * LINE_BYTES
        raw = self._bus_read(start, start + LINE_BYTES)
        body, mac = raw[:-MAC_BYTES], raw[-MAC_BYTES:]
        if not constant_time.bytes_eq(mac, self._mac(b"node%d" % level, node, above, body)):
            raise IntegrityError(
                f"counter line {node} of level {level} is not what was written: changed, moved or replayed "
                "in DRAM; stop and wipe the session"
            )
        return [int.from_bytes(body[n : n + COUNTER_BYTES], "little") for n in range(0, len(body), COUNTER_BYTES)]

    def _put_node(self, level: int, node: int, counters: list[int], above: int) -> None:
        body = b"".join(count.to_bytes(COUNTER_BYTES, "little") for count in counters)
        self._bus_write(self._levels[level] + node * LINE_BYTES, body + self._mac(b"node%d" % level, node, above, body))

    def _mac(self, what: bytes, number: int, count: int, data: bytes) -> bytes:
        mac = CMAC(algorithms.AES(self._authentication))
        mac.update(struct.pack("<8sQQ", what, number, count) + data)
        return mac.finalize()[:MAC_BYTES]

    def _encrypt(self, line: int, count: int, data: bytes) -> bytes:
        # Counts stay below 2**56 and lines below 2**56; the low 16 bits count cipher blocks within the line.
        counter = (count << 72 | line << 16).to_bytes(16, "big")
        return Cipher(algorithms.AES(self._encryption), modes.CTR(counter)).encryptor().update(data)
