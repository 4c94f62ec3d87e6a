"""Cycle model of the Tensor Encryption Core (rtl/tec.sv): equal to it at the ports in every cycle.

| step | by the clock edge that ends cycle |
|---|---|
| a beat is accepted (`in_valid and in_ready`) | 0 |
| its block is encrypted, a round a stage | 10 |
| data meet the keystream, the hash's first half | 11 |
| the hash's second half, tag or verdict; the beat stands at the output | 12 |

Source: NIST SP 800-38D (GCM), FIPS 197 (AES).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from privlib.ginseng.tec import BLOCK_BYTES, MAX_BYTES, REGIONS, ROUNDS, Kind, Outputs, Ports


def ghash_multiply(x: int, y: int) -> int:
    """Product in GF(2^128), blocks as big-endian integers (SP 800-38D, algorithm 1)."""
    product = 0
    for bit in range(127, -1, -1):
        if x >> bit & 1:
            product ^= y
        y = y >> 1 ^ (0xE1 << 120 if y & 1 else 0)
    return product


class _Secret:
    """A live slot's key: its cipher and its hash key."""

    def __init__(self, key: int) -> None:
        self._aes = Cipher(algorithms.AES(key.to_bytes(16, "big")), modes.ECB()).encryptor()
        self.hash_key = self.encrypt(0)

    def encrypt(self, block: int) -> int:
        return int.from_bytes(self._aes.update(block.to_bytes(16, "big")), "big")


@dataclass(frozen=True)
class _Region:
    enable: int = 0
    tensor: int = 0
    version: int = 0
    next: int = 0
    slot: int = 0


@dataclass(frozen=True)
class _Beat:
    """A beat inside the pipeline; `hash_key` marks the block of zeros that makes a slot live."""

    kind: Kind = Kind.NONE
    first: bool = False
    encrypt: bool = False
    bad: bool = False
    bytes: int = 0
    data: int = 0
    aad_length: int = 0
    data_length: int = 0
    counter_block: int = 0
    slot: int = 0
    hash_key: bool = False


@dataclass(frozen=True)
class _Late:
    """A beat whose output is known but has not left."""

    last: bool
    ok: bool
    bytes: int
    data: int


class TecModel:
    """`step(ports)` returns the outputs seen during that cycle, then takes the clock edge."""

    def __init__(self) -> None:
        self._reset()
        self._wipe = 0

    def _reset(self) -> None:
        self._wipe = REGIONS  # cycles of wiping still to come
        self._regions = [_Region()] * REGIONS
        self._live: dict[int, _Secret] = {}
        self._stages: deque[_Beat | None] = deque([None] * (ROUNDS + 1), maxlen=ROUNDS + 1)
        self._late: _Late | None = None
        self._out: _Late | None = None
        self._hash = 0
        self._expanding = 0  # cycles of key expansion still to come
        self._inject = self._waiting = self._cancelled = False
        self._loading = (0, 0)
        self._message = _Beat(bad=True)
        self._nonce = 0

    def step(self, ports: Ports) -> Outputs:
        """One cycle."""
        region_op = bool(ports.bind_valid or ports.bump_valid)
        index = ports.bind_region if region_op else ports.in_region
        entry = self._regions[index]
        advance = not (self._out is not None and not ports.out_ready)
        last = self._stages[0]  # stage 10, the oldest
        arrival = advance and last is not None and last.hash_key
        idle = bool(ports.key_clear) or not (self._inject or self._waiting)
        outputs = Outputs(
            key_ready=int(not self._wipe and not self._expanding and not arrival and idle),
            bind_ready=int(not self._wipe),
            bound_enable=entry.enable if region_op and not self._wipe else 0,
            bound_version=entry.version if region_op and not self._wipe else 0,
            in_ready=int(advance and not self._wipe and not self._inject and not region_op),
            out_valid=int(self._out is not None),
            out_last=int(self._out is not None and self._out.last),
            out_ok=int(self._out is not None and self._out.ok),
            out_bytes=self._out.bytes if self._out else 0,
            out_data=self._out.data if self._out else 0,
        )
        if ports.rst:
            self._reset()
            return outputs
        beat = self._take(ports, entry) if ports.in_valid and outputs.in_ready else None
        if beat is None and self._message.slot not in self._live:
            self._message = replace(self._message, bad=True)
        if beat is not None and beat.first and beat.encrypt and not beat.bad:
            self._regions[index] = replace(entry, next=ports.in_burst + 1)
        injected = self._inject and advance
        if injected:
            beat = _Beat(hash_key=True, slot=self._loading[0])
        if advance:
            self._out, self._late = self._late, self._leave(last)
            self._stages.append(beat)
        self._region_port(ports, index, entry)
        self._key_port(ports, bool(outputs.key_ready), injected, arrival)
        self._wipe = max(0, self._wipe - 1)
        return outputs

    def _take(self, ports: Ports, entry: _Region) -> _Beat:
        message, kind, start = self._message, Kind(ports.in_kind), bool(ports.in_start)
        if start:
            unwritten = ports.in_burst >= entry.next
            bad = not entry.enable or entry.slot not in self._live or unwritten != bool(ports.in_encrypt)
            self._nonce = entry.tensor << 64 | entry.version << 32 | ports.in_burst
            message = _Beat(encrypt=bool(ports.in_encrypt), slot=entry.slot)
        else:
            bad = message.bad or message.slot not in self._live
        aad, data = message.aad_length, message.data_length
        bad |= {
            Kind.AAD: data != 0 or aad % BLOCK_BYTES != 0 or aad >= MAX_BYTES,
            Kind.DATA: data % BLOCK_BYTES != 0 or data >= MAX_BYTES,
            Kind.TAG: ports.in_bytes != 0,
            Kind.NONE: True,
        }[kind]
        counter = 1 if kind == Kind.TAG else 2 + data // BLOCK_BYTES
        beat = replace(
            message,
            kind=kind,
            first=start,
            bad=bad,
            bytes=ports.in_bytes,
            data=ports.in_data,
            counter_block=self._nonce << 32 | counter,
        )
        size = ports.in_bytes or BLOCK_BYTES
        self._message = replace(
            message,
            bad=bad or kind == Kind.TAG,
            aad_length=aad + (size if kind == Kind.AAD else 0),
            data_length=data + (size if kind == Kind.DATA else 0),
        )
        return beat

    def _leave(self, beat: _Beat | None) -> _Late | None:
        """Stage 10: a beat meets its keystream and the hash."""
        if beat is None or beat.hash_key:
            return None
        secret = self._live.get(beat.slot)
        output = 0
        verdict = False
        if secret is not None and not beat.bad:
            keystream = secret.encrypt(beat.counter_block)
            mask = ((1 << 8 * (beat.bytes or 16)) - 1) << 8 * (16 - (beat.bytes or 16))
            if beat.kind == Kind.DATA:
                output = (keystream ^ beat.data) & mask
            block = output if beat.kind == Kind.DATA and beat.encrypt else beat.data & mask
            if beat.kind == Kind.TAG:
                block = beat.aad_length * 8 << 64 | beat.data_length * 8
            self._hash = ghash_multiply((0 if beat.first else self._hash) ^ block, secret.hash_key)
            if beat.kind == Kind.TAG:
                tag = self._hash ^ keystream
                output = tag if beat.encrypt else 0
                verdict = beat.encrypt or tag == beat.data
        if beat.kind not in (Kind.DATA, Kind.TAG):
            return None
        return _Late(last=beat.kind == Kind.TAG, ok=verdict, bytes=beat.bytes, data=output)

    def _region_port(self, ports: Ports, index: int, entry: _Region) -> None:
        if self._wipe:
            return
        if ports.bind_valid:
            self._regions[index] = _Region(
                ports.bind_enable, ports.bind_tensor, ports.bind_version, ports.bind_next, ports.bind_slot
            )
        elif ports.bump_valid:
            open_still = int(entry.enable and entry.version != 0xFFFFFFFF)
            self._regions[index] = replace(entry, enable=open_still, version=(entry.version + 1) % 2**32, next=0)

    def _key_port(self, ports: Ports, ready: bool, injected: bool, arrival: bool) -> None:
        load = bool(ports.key_valid and ready and not ports.key_clear)
        clear = bool(ports.key_valid and ready and ports.key_clear)
        slot, key = self._loading
        if self._expanding:
            self._expanding -= 1
            self._inject |= self._expanding == 0
        if injected:
            self._inject, self._waiting = False, True
        if clear and ports.key_slot == slot:
            self._cancelled |= self._waiting
            self._inject = False
        if arrival:
            if not self._cancelled:
                self._live[slot] = _Secret(key)
            self._waiting = self._cancelled = False
        if load or clear:
            self._live.pop(ports.key_slot, None)
        if load:
            self._loading = (ports.key_slot, ports.key)
            self._expanding = ROUNDS + 1
