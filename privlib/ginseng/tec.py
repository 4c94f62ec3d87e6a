"""The Tensor Encryption Core as its users see it: nonces, sealed bursts, input beats; measured latency and throughput.

A message is one burst: associated data beats, data beats, one tag beat; only the last beat of either kind may be short.
Its nonce is `tensor ‖ version ‖ burst`, 32 bits each, big-endian; tensor and version come from the region table, so the
memory outside cannot choose them. The rules that make a message bad (no data, no tag, verdict false):

| rule | why |
|---|---|
| region not enabled, or key slot not live, at any time of the message | no use of a stale binding or key |
| writing a burst below the region's `next`, or reading one at or above it | no nonce used twice, or read unwritten |
| associated data after data; a beat after a short one of its kind; over 2^20 bytes of either | a hash of two meanings |
| a tag of other than 16 bytes | shortened tags are forgeable |

The core is rtl/tec.sv; tec_model.py is its model cycle by cycle. Source: NIST SP 800-38D (GCM), FIPS 197 (AES).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privlib.errors import PrivlibError

KEY_SLOTS = 16
REGIONS = 32
ROUNDS = 10
MAX_BYTES = 1 << 20
TAG_BYTES = 16
BLOCK_BYTES = 16


TIMING_FILE = Path(__file__).parent / "rtl" / "timing.json"


class TecError(PrivlibError):
    """A burst that the core refuses, or whose tag does not match."""


class Kind(IntEnum):
    """What an input beat carries."""

    AAD = 0
    DATA = 1
    TAG = 2
    NONE = 3


def burst_nonce(tensor: int, version: int, burst: int) -> bytes:
    """Nonce of a burst: 12 bytes, `tensor ‖ version ‖ burst`, each 32 bits big-endian."""
    return struct.pack(">III", tensor, version, burst)


def seal_burst(key: bytes, tensor: int, version: int, burst: int, data: bytes, aad: bytes = b"") -> tuple[bytes, bytes]:
    """What the core writes for a burst: (ciphertext of `len(data)` bytes, tag of 16 bytes)."""
    sealed = AESGCM(key).encrypt(burst_nonce(tensor, version, burst), data, aad)
    return sealed[:-TAG_BYTES], sealed[-TAG_BYTES:]


def open_burst(
    key: bytes, tensor: int, version: int, burst: int, ciphertext: bytes, tag: bytes, aad: bytes = b""
) -> bytes:
    """What the core delivers for a burst read from memory; raises TecError unless the tag is whole and right."""
    if len(tag) != TAG_BYTES:
        raise TecError(f"the tag has {len(tag)} bytes; only whole tags of {TAG_BYTES} bytes are checked")
    try:
        return AESGCM(key).decrypt(burst_nonce(tensor, version, burst), ciphertext + tag, aad)
    except InvalidTag as error:
        raise TecError(
            f"tag mismatch: tensor {tensor}, version {version}, burst {burst} was changed, replayed or moved: stop"
        ) from error


@dataclass(frozen=True)
class Ports:
    """The core's inputs in one cycle, named as in tec.sv; `key` and `in_data` are blocks as big-endian integers."""

    rst: int = 0
    key_valid: int = 0
    key_clear: int = 0
    key_slot: int = 0
    key: int = 0
    bind_valid: int = 0
    bump_valid: int = 0
    bind_region: int = 0
    bind_enable: int = 0
    bind_tensor: int = 0
    bind_version: int = 0
    bind_next: int = 0
    bind_slot: int = 0
    in_valid: int = 0
    in_start: int = 0
    in_encrypt: int = 0
    in_region: int = 0
    in_burst: int = 0
    in_kind: int = 0
    in_bytes: int = 0
    in_data: int = 0
    out_ready: int = 1


@dataclass(frozen=True)
class Outputs:
    """The core's outputs in one cycle; `out_*` count while `out_valid`."""

    key_ready: int = 0
    bind_ready: int = 0
    bound_enable: int = 0
    bound_version: int = 0
    in_ready: int = 0
    out_valid: int = 0
    out_last: int = 0
    out_ok: int = 0
    out_bytes: int = 0
    out_data: int = 0


class BeatPacker:
    """Cuts one message, given in chunks of any size (empty ones too), into input beats.

    A block is held back until it is full or its kind ends, so how the bytes are chunked never shows.
    """

    def __init__(self, *, encrypt: bool, region: int, burst: int) -> None:
        self._start = Ports(in_valid=1, in_start=1, in_encrypt=int(encrypt), in_region=region, in_burst=burst)
        self._kind = Kind.AAD
        self._pending = b""
        self._first = True

    def _beat(self, kind: Kind, block: bytes) -> Ports:
        base = self._start if self._first else Ports(in_valid=1)
        self._first = False
        padded = int.from_bytes(block.ljust(BLOCK_BYTES, b"\0"), "big")
        return replace(base, in_kind=int(kind), in_bytes=len(block) % BLOCK_BYTES, in_data=padded)

    def push(self, kind: Kind, chunk: bytes) -> Iterator[Ports]:
        """Beats that are complete after `chunk`."""
        if kind != self._kind:
            yield from self._flush()
            self._kind = kind
        self._pending += chunk
        while len(self._pending) >= BLOCK_BYTES:
            block, self._pending = self._pending[:BLOCK_BYTES], self._pending[BLOCK_BYTES:]
            yield self._beat(self._kind, block)

    def _flush(self) -> Iterator[Ports]:
        if self._pending:
            yield self._beat(self._kind, self._pending)
            self._pending = b""

    def finish(self, tag: bytes = bytes(TAG_BYTES)) -> Iterator[Ports]:
        """The last short beat, if any, and the tag beat; `tag` is what memory holds (ignored when encrypting)."""
        yield from self._flush()
        yield self._beat(Kind.TAG, tag)


def message_beats(
    *,
    encrypt: bool,
    region: int,
    burst: int,
    aad: Iterable[bytes],
    data: Iterable[bytes],
    tag: bytes = bytes(TAG_BYTES),
) -> list[Ports]:
    """All beats of one message whose associated data and data come in chunks."""
    packer = BeatPacker(encrypt=encrypt, region=region, burst=burst)
    beats = [beat for chunk in aad for beat in packer.push(Kind.AAD, chunk)]
    beats += [beat for chunk in data for beat in packer.push(Kind.DATA, chunk)]
    return beats + list(packer.finish(tag))


@dataclass(frozen=True)
class TecTiming:
    """What the RTL simulation measured, in cycles of the core's clock; one block is 16 bytes.

    `latency_cycles` from the cycle that takes a data beat to the cycle that shows it, `tag_latency_cycles` the same
    for the tag beat (tag or verdict), `blocks_per_cycle` beats a cycle without back-pressure, the tag beat being one
    beat, `key_setup_cycles` from taking a key to the first cycle that takes a beat under it.
    """

    latency_cycles: int
    blocks_per_cycle: float
    key_setup_cycles: int
    tag_latency_cycles: int
    source: str


def measured_timing() -> TecTiming:
    """The committed measurement, rtl/timing.json."""
    return TecTiming(**json.loads(TIMING_FILE.read_text()))
