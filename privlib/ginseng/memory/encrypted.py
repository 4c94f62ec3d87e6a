"""Simulated DRAM that really is encrypted: what an attacker on the bus sees and may change, and what the chip checks.

| mode | confidential | flipped | relocated | replayed |
|---|---|---|---|---|
| none | no | unnoticed | unnoticed | unnoticed |
| ctr | yes | unnoticed (the same bits flip in the plaintext) | unnoticed (garbles) | unnoticed |
| mee, mgx, tec | yes | IntegrityError | IntegrityError | IntegrityError |

`dram` is the attacker's: data at the program's addresses, metadata after it. Keys, versions and tree roots are the
chip's. The chip only ever sees data whose tag it has checked (`check="before_use"` of the timing model).
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping
from mmap import mmap

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privlib.ginseng.errors import IntegrityError, ProtectionError
from privlib.ginseng.memory import blocks as authentication
from privlib.ginseng.memory.blocks import TAG_BYTES, Blocks
from privlib.ginseng.tec import burst_nonce
from privlib.ginseng.vta.program import ALIGNMENT, Region, VtaProgram

CIPHER_BLOCK = 16
LAST_VERSION = (1 << 32) - 1
LAST_REWRITE = 1 << 12
Observer = Callable[[bool, int, bytes], None]


class ExternalDram:
    """The untrusted part: bytes that anyone may read and change, and an observer of the bus (write?, address, bytes).
    Stored as they come: mode `none`."""

    def __init__(self, program: VtaProgram, observer: Observer | None = None) -> None:
        self.regions = sorted(program.regions.values(), key=lambda region: region.base)
        self._bases = [region.base for region in self.regions]
        self.data_end = -(-max(region.end for region in self.regions) // ALIGNMENT) * ALIGNMENT
        self.dram: bytearray | mmap = bytearray(self.data_end)
        self._observer = observer
        self._versions: Counter[str] = Counter()

    def begin(self, region: Region) -> None:
        """The tensor's next version is about to be written. ProtectionError when its versions are used up."""
        if self._versions[region.name] >= LAST_VERSION:
            raise ProtectionError(
                f"tensor {region.name!r} has used its {LAST_VERSION} versions; load the model under a new key"
            )
        self._versions[region.name] += 1

    def version(self, region: Region) -> int:
        """How many versions of a tensor have begun."""
        return self._versions[region.name]

    def move(self, elsewhere: mmap) -> None:
        """Go on in memory of the same size that others map too."""
        elsewhere[:] = bytes(self.dram)
        self.dram = elsewhere

    def read(self, start: int, end: int) -> bytes:
        return self._bus_read(start, end)

    def write(self, start: int, data: bytes) -> None:
        self._bus_write(start, data)

    def dependent(self, address: int) -> tuple[int, int] | None:
        """Bytes [start, end) whose reading involves the byte of `dram` at `address`; None where nothing does. For
        attacks: change that byte, then read those."""
        region = self.regions[bisect_right(self._bases, address) - 1]
        return (address, address + 1) if address < region.end else None

    def tag_span(self, address: int) -> tuple[int, int] | None:
        """Where in `dram` the tag (or MAC) lies that vouches for the data byte at `address`; None without tags."""
        return None

    def _grow(self, size: int) -> None:
        """More room, for metadata behind the data."""
        self.dram = bytearray(self.dram) + bytes(size)

    def _region(self, start: int, end: int) -> Region:
        region = self.regions[bisect_right(self._bases, start) - 1]
        if end > region.end:
            raise ProtectionError(f"bytes {start}..{end} cross the end of tensor {region.name!r}")
        return region

    def _bus_read(self, start: int, end: int) -> bytes:
        data = bytes(self.dram[start:end])
        if self._observer is not None:
            self._observer(False, start, data)
        return data

    def _bus_write(self, start: int, data: bytes) -> None:
        self.dram[start : start + len(data)] = data
        if self._observer is not None:
            self._observer(True, start, data)


class CounterDram(ExternalDram):
    """AES-CTR under (tensor, version, position), versions on chip: confidential, and nothing else."""

    def __init__(self, program: VtaProgram, key: bytes, observer: Observer | None = None) -> None:
        super().__init__(program, observer)
        self._key = key

    def read(self, start: int, end: int) -> bytes:
        return self._apply(start, self._bus_read(start, end))

    def write(self, start: int, data: bytes) -> None:
        self._bus_write(start, self._apply(start, data))

    def _apply(self, start: int, data: bytes) -> bytes:
        region = self._region(start, start + len(data))
        position, skipped = divmod(start - region.base, CIPHER_BLOCK)
        counter = (region.number << 96 | self._versions[region.name] << 64 | position).to_bytes(16, "big")
        stream = Cipher(algorithms.AES(self._key), modes.CTR(counter)).encryptor()
        return stream.update(bytes(skipped) + data)[skipped:]


class TaggedDram(ExternalDram):
    """AES-128-GCM over authentication blocks, the 16-byte tags after the data: `tec`, and with equal blocks `mgx`.

    The nonce is the TEC's: tensor, version, burst number. No two blocks written under one key share it: a tensor's
    version rises before it is written, and within a version burst numbers only rise, as the core enforces. Where blocks
    do not follow the tiles (`mgx`) a block written in part is read, checked and written again under a rewrite number of
    its own, which the chip keeps too.
    """

    def __init__(
        self,
        program: VtaProgram,
        key: bytes,
        partition: Mapping[str, Blocks],
        *,
        partial_writes: bool,
        observer: Observer | None = None,
    ) -> None:
        super().__init__(program, observer)
        self._cipher = AESGCM(key)
        self.partition, self._partial = partition, partial_writes
        self.slots = authentication.tag_slots(program.regions, partition)
        tags = max(self.slots[region.name] + partition[region.name].count for region in self.regions)
        self._grow(tags * TAG_BYTES)
        self._next: Counter[str] = Counter()
        self._written: dict[str, Counter[int]] = {region.name: Counter() for region in self.regions}

    def begin(self, region: Region) -> None:
        super().begin(region)
        self._written[region.name].clear()
        self._next[region.name] = 0

    def tag_address(self, region: Region, block: int) -> int:
        """Where a block's tag lies in `dram`."""
        return self.data_end + (self.slots[region.name] + block) * TAG_BYTES

    def tag_span(self, address: int) -> tuple[int, int] | None:
        region = self._region(address, address + 1)
        offset = address - region.base
        at = self.tag_address(region, self.partition[region.name].covering(offset, offset + 1)[0])
        return at, at + TAG_BYTES

    def dependent(self, address: int) -> tuple[int, int] | None:
        """The block that the byte is part of, or whose tag it is part of."""
        if address >= self.data_end:
            slot = (address - self.data_end) // TAG_BYTES
            region = max((r for r in self.regions if self.slots[r.name] <= slot), key=lambda r: self.slots[r.name])
            block = slot - self.slots[region.name]
        else:
            region = self.regions[bisect_right(self._bases, address) - 1]
            if address >= region.end:
                return None
            block = self.partition[region.name].covering(address - region.base, address - region.base + 1)[0]
        cuts = self.partition[region.name].cuts
        return (region.base + cuts[block], region.base + cuts[block + 1]) if block < len(cuts) - 1 else None

    def read(self, start: int, end: int) -> bytes:
        """Bytes [start, end), from whole blocks each of which is checked. IntegrityError names the tensor and block."""
        region = self._region(start, end)
        cuts = self.partition[region.name]
        first, last = cuts.covering(start - region.base, end - region.base)
        data = b"".join(self._open(region, block) for block in range(first, last))
        skipped = start - region.base - cuts.cuts[first]
        return data[skipped : skipped + end - start]

    def write(self, start: int, data: bytes) -> None:
        """Seal whole blocks. ProtectionError for a part of a block, or for a block written twice in one version."""
        end = start + len(data)
        region = self._region(start, end)
        cuts = self.partition[region.name]
        offset = start - region.base
        first, last = cuts.covering(offset, end - region.base)
        if not self._versions[region.name]:
            raise ProtectionError(f"tensor {region.name!r} is written before its first version began")
        for block in range(first, last):
            low, high = cuts.cuts[block], cuts.cuts[block + 1]
            inside = data[max(0, low - offset) : high - offset]
            if len(inside) < high - low:
                inside = self._merge(region, block, inside, max(low, offset) - low)
            self._seal(region, block, inside)

    def _merge(self, region: Region, block: int, part: bytes, at: int) -> bytes:
        if not self._partial:
            raise ProtectionError(f"part of block {block} of {region.name!r} is written; a block is written whole")
        size = self.partition[region.name].cuts[block + 1] - self.partition[region.name].cuts[block]
        old = bytearray(self._open(region, block) if self._written[region.name][block] else bytes(size))
        old[at : at + len(part)] = part
        return bytes(old)

    def _nonce(self, region: Region, block: int) -> bytes:
        rewrites = self._written[region.name][block] - 1 if self._partial else 0
        # Rewrites share the tensor's 32-bit field: no network here has 2**20 tensors.
        burst = self.partition[region.name].number(block)
        return burst_nonce(region.number + (rewrites << 20), self._versions[region.name], burst)

    def _seal(self, region: Region, block: int, data: bytes) -> None:
        burst = self.partition[region.name].number(block)
        if burst < self._next[region.name] and not self._partial:
            raise ProtectionError(
                f"block {block} of {region.name!r} is written out of turn or twice in a version: its nonce could repeat"
            )
        self._next[region.name] = burst + 1
        self._written[region.name][block] += 1
        if self._written[region.name][block] > LAST_REWRITE:
            raise ProtectionError(f"block {block} of {region.name!r} was rewritten {LAST_REWRITE} times in one version")
        sealed = self._cipher.encrypt(self._nonce(region, block), data, None)
        self._bus_write(region.base + self.partition[region.name].cuts[block], sealed[:-TAG_BYTES])
        self._bus_write(self.tag_address(region, block), sealed[-TAG_BYTES:])

    def _open(self, region: Region, block: int) -> bytes:
        if not self._written[region.name][block]:
            raise IntegrityError(f"block {block} of {region.name!r} was never written in the current version")
        cuts, at = self.partition[region.name].cuts, self.tag_address(region, block)
        tag = self._bus_read(at, at + TAG_BYTES)
        data = self._bus_read(region.base + cuts[block], region.base + cuts[block + 1])
        try:
            return self._cipher.decrypt(self._nonce(region, block), data + tag, None)
        except InvalidTag:
            raise IntegrityError(
                f"block {block} of {region.name!r} (version {self._versions[region.name]}) is not what was "
                "written: flipped, moved or replayed in DRAM; stop and wipe the session"
            ) from None
