"""Attacks on memory while a network runs, carried out under every protection mode: what is noticed, what leaks.

The attacker owns everything outside the chip: it sees the bus, and reads and rewrites data and metadata between two
layers. Memory really is encrypted, and every verdict is what happened, so a mode that protects nothing shows it.
"""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from privlib.ginseng.errors import IntegrityError
from privlib.ginseng.memory.dram import LINE_BYTES
from privlib.ginseng.memory.modes import protected_dram
from privlib.ginseng.memory.traffic import MODES
from privlib.ginseng.vta import functional
from privlib.ginseng.vta.compile import lower
from privlib.ginseng.vta.isa import Gemm
from privlib.ginseng.vta.network import random_parameters
from privlib.ginseng.vta.program import Region, VtaProgram

CIPHER_BLOCK = 16
SECRET_BYTES = 64
GEMM_RESET = 0x80
"""The bit of a GEMM instruction's first byte that throws the product away."""


class Verdict(StrEnum):
    """What an attack came to."""

    HIDDEN = "hidden"
    READABLE = "readable"
    DETECTED = "detected"
    WRONG = "wrong result, unnoticed"
    NO_EFFECT = "no effect"
    NOTHING_TO_ATTACK = "nothing to attack"

    @property
    def stopped(self) -> bool:
        """Whether the attacker gained nothing."""
        return self in (Verdict.HIDDEN, Verdict.DETECTED)


@dataclass(frozen=True)
class Outcome:
    """One attack under one mode."""

    attack: str
    mode: str
    verdict: Verdict


@dataclass(frozen=True)
class Coverage:
    """One bit flipped in each 64-byte burst of data and metadata that a read depends on, one after the other."""

    mode: str
    flipped: int
    detected: int


@dataclass
class Victim:
    """A network loaded into memory under a mode, its input, and all that passed over the bus."""

    mode: str
    program: VtaProgram = field(default_factory=lambda: lower("tiny"))
    seed: int = 0
    bus: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        network = self.program.network
        self.parameters = random_parameters(network, self.seed)
        self.memory = protected_dram(self.mode, self.program, observer=lambda _, __, data: self.bus.extend(data))
        functional.load_constants(self.program, self.parameters, self.memory)
        generator = np.random.default_rng(self.seed)
        self.image = generator.integers(-128, 128, network.input_shape, dtype=np.int8)

    def infer(self, attack: Callable[[], None] | None = None, before: str = "") -> npt.NDArray[np.int8]:
        """One inference; `attack` strikes just before layer `before`."""

        def act(layer: str) -> None:
            if attack is not None and layer == before:
                attack()

        return functional.run(self.program, self.memory, self.image, before_layer=act)

    def judge(self, attack: Callable[[], None], before: str) -> Verdict:
        """The verdict on an attack during one inference, by a run without it."""
        expected = self.infer()
        try:
            found = self.infer(attack, before)
        except IntegrityError:
            return Verdict.DETECTED
        return Verdict.NO_EFFECT if np.array_equal(found, expected) else Verdict.WRONG

    def region(self, name: str) -> Region:
        return self.program.regions[name]

    def flip(self, start: int, end: int, bits: int = 0x40) -> None:
        """Flip `bits` of each byte in [start, end) of DRAM."""
        for address in range(start, end):
            self.memory.dram[address] ^= bits


def read_the_bus(victim: Victim) -> Verdict:
    """Look for the image and the weights among all bytes that passed."""
    victim.infer()
    weights = victim.program.image(victim.parameters)["logits:weights"]
    secrets = [victim.program.pack(victim.image)[:SECRET_BYTES], weights[:SECRET_BYTES]]
    return Verdict.READABLE if any(secret in victim.bus for secret in secrets) else Verdict.HIDDEN


def compare_equal_data(victim: Victim) -> Verdict:
    """Write the same zeros over a whole tensor, twice, and look for equal blocks on the bus, in place or in time."""
    region = victim.region("block/a")
    victim.bus.clear()
    written = []
    for _ in range(2):
        victim.memory.begin(region)
        victim.memory.write(region.base, bytes(region.size))
        written.append(bytes(victim.memory.dram[region.base : region.end]))
    pieces = [data[n : n + CIPHER_BLOCK] for data in written for n in range(0, region.size, CIPHER_BLOCK)]
    return Verdict.HIDDEN if len(set(pieces)) == len(pieces) else Verdict.READABLE


def flip_weights(victim: Victim) -> Verdict:
    """Flip a bit in each of 64 weights."""
    start = victim.region("logits:weights").base
    return victim.judge(lambda: victim.flip(start, start + LINE_BYTES), "logits")


def flip_feature_map(victim: Victim) -> Verdict:
    """Flip a bit in each of 64 values between two layers."""
    start = victim.region("block/b").base
    return victim.judge(lambda: victim.flip(start, start + LINE_BYTES), "pool")


def flip_tag(victim: Victim) -> Verdict:
    """Flip a bit of the tag, or MAC, of a weight block."""
    span = victim.memory.tag_span(victim.region("logits:weights").base)
    if span is None:
        return Verdict.NOTHING_TO_ATTACK
    return victim.judge(lambda: victim.flip(span[0], span[0] + 1), "logits")


def change_an_instruction(victim: Victim) -> Verdict:
    """Turn a matrix product into a reset of its accumulators."""
    layer = victim.program.layers[-1]
    number = next(n for n, one in enumerate(layer.instructions) if isinstance(one, Gemm) and not one.reset)
    address = victim.region("logits:instructions").base + number * CIPHER_BLOCK
    return victim.judge(lambda: victim.flip(address, address + 1, GEMM_RESET), "logits")


def move_a_block(victim: Victim) -> Verdict:
    """Put one block of weights in the place of another of its size, its tag with it."""
    memory = victim.memory
    blocks = _blocks(victim, victim.region("block/b:weights"))
    here, there = next(
        pair for pair in itertools.combinations(blocks, 2) if pair[0][1] - pair[0][0] == pair[1][1] - pair[1][0]
    )
    tags = memory.tag_span(here[0]), memory.tag_span(there[0])

    def attack() -> None:
        memory.dram[slice(*here)] = memory.dram[slice(*there)]
        if tags[0] is not None and tags[1] is not None:
            memory.dram[slice(*tags[0])] = memory.dram[slice(*tags[1])]

    return victim.judge(attack, "block/b")


def _blocks(victim: Victim, region: Region) -> list[tuple[int, int]]:
    """Where each block under a tag of its own lies; lines of 64 bytes where there are no tags."""
    if victim.memory.tag_span(region.base) is None:
        return [(start, start + LINE_BYTES) for start in range(region.base, region.end, LINE_BYTES)]
    spans, at = [], region.base
    while at < region.end:
        span = victim.memory.dependent(at)
        assert span is not None
        spans.append(span)
        at = span[1]
    return spans


def replay_a_feature_map(victim: Victim) -> Verdict:
    """Put back a tensor of the inference before, of another image, with all metadata as it was then."""
    memory, region = victim.memory, victim.region("block/b")
    old: list[bytes] = []
    fresh, victim.image = victim.image, victim.image[::-1].copy()
    victim.infer(lambda: old.append(bytes(memory.dram)), "pool")
    victim.image = fresh

    def attack() -> None:
        memory.dram[region.base : region.end] = old[0][region.base : region.end]
        memory.dram[memory.data_end :] = old[0][memory.data_end :]

    return victim.judge(attack, "pool")


ATTACKS: dict[str, Callable[[Victim], Verdict]] = {
    "read the bus": read_the_bus,
    "compare equal data": compare_equal_data,
    "flip weights": flip_weights,
    "flip a feature map": flip_feature_map,
    "flip a tag": flip_tag,
    "change an instruction": change_an_instruction,
    "move a block": move_a_block,
    "replay a feature map": replay_a_feature_map,
}


def matrix(modes: Iterable[str] = MODES) -> list[Outcome]:
    """Every attack under every mode, each on a freshly loaded victim."""
    program = lower("tiny")
    return [Outcome(name, mode, attack(Victim(mode, program))) for name, attack in ATTACKS.items() for mode in modes]


def flip_every_burst(mode: str, seed: int = 0) -> Coverage:
    """Flip one bit in every burst in turn, read what depends on it, and put it back."""
    victim = Victim(mode)
    victim.infer()
    memory, generator = victim.memory, np.random.default_rng(seed)
    flipped = detected = 0
    for start in range(0, len(memory.dram), LINE_BYTES):
        burst = range(start, min(start + LINE_BYTES, len(memory.dram)))
        used = [address for address in burst if memory.dependent(address) is not None]
        if not used:
            continue
        address = int(generator.choice(used))
        span = memory.dependent(address)
        assert span is not None
        bit = 1 << int(generator.integers(8))
        victim.flip(address, address + 1, bit)
        try:
            memory.read(*span)
        except IntegrityError:
            detected += 1
        victim.flip(address, address + 1, bit)
        flipped += 1
    return Coverage(mode, flipped, detected)
