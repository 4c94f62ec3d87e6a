"""Attacks on the simulated DRAM: what each mode detects, and, as negative controls, what by design it does not."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from privlib.ginseng import tec
from privlib.ginseng.errors import IntegrityError, ProtectionError
from privlib.ginseng.memory import encrypted
from privlib.ginseng.memory.blocks import uniform
from privlib.ginseng.memory.encrypted import ExternalDram, Observer, TaggedDram
from privlib.ginseng.memory.modes import protected_dram
from privlib.ginseng.memory.traffic import MODES
from privlib.ginseng.vta import functional
from privlib.ginseng.vta.isa import Gemm, decode
from privlib.ginseng.vta.network import Parameters
from privlib.ginseng.vta.program import VtaProgram
from tests.ginseng.int8_reference import forward

AUTHENTICATED = ("mee", "mgx", "tec")
BLIND = ("none", "ctr")
KEY = bytes(range(16))
BURST = 64
Image = npt.NDArray[np.int8]


@dataclass
class Bench:
    """A model loaded into memory under one mode, and an inference to attack."""

    program: VtaProgram
    memory: ExternalDram
    image: Image
    expected: Image

    def infer(self, attack: Callable[[], None] | None = None, before: str = "") -> Image:
        def act(layer: str) -> None:
            if attack is not None and layer == before:
                attack()

        return functional.run(self.program, self.memory, self.image, before_layer=act)

    def flip(self, address: int) -> None:
        self.memory.dram[address] ^= 0x10


@pytest.fixture
def bench(tiny: VtaProgram, tiny_parameters: Parameters, image: Image) -> Callable[..., Bench]:
    expected = forward(tiny.network, tiny_parameters, image)[tiny.network.output]

    def load(mode: str, observer: Observer | None = None) -> Bench:
        memory = protected_dram(mode, tiny, key=KEY, observer=observer)
        functional.load_constants(tiny, tiny_parameters, memory)
        return Bench(tiny, memory, image, expected)

    return load


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_computes_the_same(bench: Callable[..., Bench], mode: str) -> None:
    case = bench(mode)
    for _ in range(2):
        np.testing.assert_array_equal(case.infer(), case.expected)


@pytest.mark.parametrize("mode", AUTHENTICATED)
def test_a_flip_in_any_burst_of_data_or_metadata_is_detected(bench: Callable[..., Bench], mode: str) -> None:
    case = bench(mode)
    case.infer()
    memory, generator = case.memory, np.random.default_rng(0)
    flipped = 0
    for start in range(0, len(memory.dram), BURST):
        used = [at for at in range(start, min(start + BURST, len(memory.dram))) if memory.dependent(at) is not None]
        if not used:
            continue
        address = int(generator.choice(used))
        span = memory.dependent(address)
        assert span is not None
        memory.read(*span)
        case.flip(address)
        with pytest.raises(IntegrityError):
            memory.read(*span)
        case.flip(address)
        flipped += 1
    assert flipped > sum(region.size for region in memory.regions) // BURST
    np.testing.assert_array_equal(case.infer(), case.expected)


@pytest.mark.parametrize("mode", AUTHENTICATED)
@pytest.mark.parametrize("target", ["a:instructions", "b:uops", "p:bias", "c:weights", "a", "b"])
def test_a_flip_during_an_inference_stops_it(bench: Callable[..., Bench], mode: str, target: str) -> None:
    case = bench(mode)
    region = case.program.regions[target]
    before = target.partition(":")[0] if ":" in target else {"a": "b", "b": "c"}[target]
    with pytest.raises(IntegrityError):
        case.infer(lambda: case.flip(region.base + region.size // 2), before)


@pytest.mark.parametrize("mode", BLIND)
def test_without_tags_a_flip_goes_unnoticed_and_changes_the_result(bench: Callable[..., Bench], mode: str) -> None:
    case = bench(mode)
    region = case.program.regions["e:weights"]

    def attack() -> None:
        for address in range(region.base, region.end):
            case.flip(address)

    assert (case.infer(attack, "e") != case.expected).any()


def test_in_counter_mode_the_attacker_chooses_which_plaintext_bits_flip(bench: Callable[..., Bench]) -> None:
    case = bench("ctr")
    region = case.program.regions["a:bias"]
    before = case.memory.read(region.base, region.end)
    case.flip(region.base + 5)
    after = case.memory.read(region.base, region.end)
    assert [(n, x ^ y) for n, (x, y) in enumerate(zip(before, after, strict=True)) if x != y] == [(5, 0x10)]


@pytest.mark.parametrize("mode", MODES)
def test_replaying_the_last_inferences_tensor_is_detected_where_there_are_tags(
    bench: Callable[..., Bench], mode: str
) -> None:
    case = bench(mode)
    old: list[bytes] = []
    case.infer(lambda: old.append(bytes(case.memory.dram)), "b")
    case.image = case.image[::-1].copy()
    fresh = case.infer()
    region, memory = case.program.regions["a"], case.memory

    def attack() -> None:
        # The old tensor and all old metadata, as they once were; counters, MACs and tree included.
        memory.dram[region.base : region.end] = old[0][region.base : region.end]
        memory.dram[memory.data_end :] = old[0][memory.data_end :]

    if mode in AUTHENTICATED:
        with pytest.raises(IntegrityError):
            case.infer(attack, "b")
    else:
        assert (case.infer(attack, "b") != fresh).any()


@pytest.mark.parametrize("mode", MODES)
def test_relocating_a_burst_is_detected_where_there_are_tags(bench: Callable[..., Bench], mode: str) -> None:
    case = bench(mode)
    memory = case.memory
    region = case.program.regions["c:weights"]
    size = 512
    if isinstance(memory, TaggedDram):
        size = memory.partition[region.name].cuts[1]
    here, there = (region.base, region.base + size), (region.base + size, region.base + 2 * size)
    plain = memory.read(*here)
    memory.dram[slice(*here)] = memory.dram[slice(*there)]
    if isinstance(memory, TaggedDram):
        # Its tag goes with it.
        assert memory.partition[region.name].exact(size, 2 * size)
        tags = [memory.tag_address(region, block) for block in (0, 1)]
        memory.dram[tags[0] : tags[0] + 16] = memory.dram[tags[1] : tags[1] + 16]
    if mode in AUTHENTICATED:
        with pytest.raises(IntegrityError):
            memory.read(*here)
    else:
        assert memory.read(*here) != plain


def test_a_changed_instruction_runs_where_streams_are_not_authenticated_and_only_there(
    bench: Callable[..., Bench],
) -> None:
    for mode, runs in (("none", True), ("tec", False)):
        case = bench(mode)
        region = case.program.regions["e:instructions"]
        number = next(
            n for n, i in enumerate(case.program.layers[-1].instructions) if isinstance(i, Gemm) and not i.reset
        )
        address = region.base + 16 * number

        def attack(case: Bench = case, address: int = address) -> None:
            # Bit 7 is GEMM's reset: the product is thrown away.
            case.memory.dram[address] ^= 0x80

        if runs:
            assert (case.infer(attack, "e") != case.expected).any()
            changed = decode(bytes(case.memory.dram[address : address + 16]))
            assert isinstance(changed, Gemm) and changed.reset
        else:
            with pytest.raises(IntegrityError, match="e:instructions"):
                case.infer(attack, "e")


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "none"])
def test_equal_plaintexts_differ_on_the_bus_in_place_and_in_time(tiny: VtaProgram, mode: str) -> None:
    seen: list[bytes] = []

    def watch(write: bool, address: int, data: bytes) -> None:
        if write and region.base <= address < region.end:
            seen.extend(data[n : n + 16] for n in range(0, len(data) - 15, 16))

    region = tiny.regions["c:weights"]
    memory = protected_dram(mode, tiny, observer=watch)
    for _ in range(3):
        memory.begin(region)
        memory.write(region.base, bytes(region.size))
    assert len(seen) >= 3 * (region.size // 16)
    assert len(set(seen)) == len(seen)


def test_equal_plaintexts_are_equal_on_an_unprotected_bus(tiny: VtaProgram) -> None:
    seen: set[bytes] = set()
    memory = protected_dram("none", tiny, observer=lambda write, address, data: seen.add(data))
    for _ in range(3):
        memory.write(tiny.regions["a"].base, bytes(4096))
    assert len(seen) == 1


@pytest.mark.parametrize("mode", MODES)
def test_the_bus_shows_weights_and_images_only_without_protection(
    bench: Callable[..., Bench], tiny_parameters: Parameters, mode: str
) -> None:
    bus = bytearray()
    case = bench(mode, lambda write, address, data: bus.extend(data))
    case.infer()
    secrets = [case.program.pack(case.image)[:64]]
    secrets += [
        tiny_parameters["e"][1][:8].astype("<i4").tobytes(),
        case.program.image(tiny_parameters)["c:weights"][:64],
    ]
    assert all((secret in bus) == (mode == "none") for secret in secrets)


@pytest.mark.parametrize("mode", ["tec", "mgx"])
def test_no_nonce_is_ever_used_twice(bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    sealed: list[bytes] = []
    case = bench(mode)
    assert isinstance(case.memory, TaggedDram)

    class Recording:
        def encrypt(self, nonce: bytes, data: bytes, aad: bytes | None) -> bytes:
            sealed.append(nonce)
            return encrypted.AESGCM(KEY).encrypt(nonce, data, aad)

        def decrypt(self, nonce: bytes, data: bytes, aad: bytes | None) -> bytes:
            return encrypted.AESGCM(KEY).decrypt(nonce, data, aad)

    monkeypatch.setattr(case.memory, "_cipher", Recording())
    for _ in range(3):
        case.infer()
    assert len(sealed) > 100 and len(set(sealed)) == len(sealed)


def test_bursts_in_dram_are_what_the_tensor_encryption_core_writes(bench: Callable[..., Bench]) -> None:
    case = bench("tec")
    memory = case.memory
    assert isinstance(memory, TaggedDram)
    case.infer()
    case.infer()
    for name, version in (("a:weights", 1), ("a", 2), ("input", 2)):
        region, blocks = case.program.regions[name], memory.partition[name]
        for block in range(blocks.count):
            low, high = region.base + blocks.cuts[block], region.base + blocks.cuts[block + 1]
            ciphertext, tag = tec.seal_burst(KEY, region.number, version, blocks.number(block), memory.read(low, high))
            at = memory.tag_address(region, block)
            assert memory.dram[low:high] == ciphertext and memory.dram[at : at + 16] == tag


def test_a_block_is_written_whole_once_a_version_and_read_only_after_that(tiny: VtaProgram) -> None:
    memory = protected_dram("tec", tiny)
    region = tiny.regions["a:bias"]
    with pytest.raises(ProtectionError, match="first version"):
        memory.write(region.base, bytes(region.size))
    memory.begin(region)
    with pytest.raises(IntegrityError, match="never written"):
        memory.read(region.base, region.end)
    with pytest.raises(ProtectionError, match="written whole"):
        memory.write(region.base, bytes(8))
    memory.write(region.base, bytes(region.size))
    with pytest.raises(ProtectionError, match="nonce could repeat"):
        memory.write(region.base, bytes(region.size))
    memory.begin(region)
    with pytest.raises(IntegrityError, match="never written"):
        memory.read(region.base, region.end)
    with pytest.raises(ProtectionError, match="cross the end"):
        memory.read(region.base, region.end + 1)


def test_blocks_written_out_of_turn_are_refused_as_the_core_does(tiny: VtaProgram) -> None:
    region = tiny.regions["input"]
    partition = {name: uniform(r.size, 256) for name, r in tiny.regions.items()}
    memory = protected_dram("tec", tiny, partition=partition)
    memory.begin(region)
    memory.write(region.base + 256, bytes(256))
    with pytest.raises(ProtectionError, match="out of turn"):
        memory.write(region.base, bytes(256))


def test_used_up_versions_are_refused_before_a_nonce_repeats(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encrypted, "LAST_VERSION", 2)
    for mode in ("ctr", "mgx", "tec"):
        case = bench(mode)
        case.infer()
        case.infer()
        with pytest.raises(ProtectionError, match="new key"):
            case.infer()
    assert tec.burst_nonce(1, (1 << 32) - 1, 2)[4:8] == b"\xff" * 4


def test_used_up_tree_counters_are_refused(tiny: VtaProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privlib.ginseng.memory.tree.LAST_COUNT", 2)
    memory = protected_dram("mee", tiny)
    memory.write(0, bytes(64))
    memory.write(0, bytes(64))
    with pytest.raises(ProtectionError, match="new key"):
        memory.write(0, bytes(64))


def test_the_tree_keeps_what_shares_a_line_with_a_partial_write(tiny: VtaProgram) -> None:
    memory = protected_dram("mee", tiny)
    memory.write(0, bytes(range(128)))
    memory.write(40, b"\xff" * 50)
    assert memory.read(0, 128) == bytes(range(40)) + b"\xff" * 50 + bytes(range(90, 128))


def test_unknown_modes_and_short_keys_are_refused(tiny: VtaProgram) -> None:
    with pytest.raises(ProtectionError, match="mgx"):
        protected_dram("sgx", tiny)
    with pytest.raises(ProtectionError, match="16 bytes"):
        protected_dram("tec", tiny, key=b"short")
