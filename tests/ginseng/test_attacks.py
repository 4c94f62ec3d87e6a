"""The attack matrix: what it finds is what the modes promise, and an attack that does nothing says so."""

from collections.abc import Callable

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privlib.ginseng import attacks, lower
from privlib.ginseng.attacks import ATTACKS, Verdict, Victim
from privlib.ginseng.memory.encrypted import TaggedDram
from privlib.ginseng.memory.modes import protected_dram
from privlib.ginseng.memory.traffic import MODES
from privlib.ginseng.vta import functional
from privlib.ginseng.vta.network import random_parameters
from privlib.ginseng.vta.program import VtaProgram
from tests.ginseng.int8_reference import forward

AUTHENTICATED = ("mee", "mgx", "tec")


@pytest.fixture(scope="module")
def program() -> VtaProgram:
    return lower("tiny")


def test_every_attack_comes_to_what_its_mode_promises() -> None:
    found = {(outcome.attack, outcome.mode): outcome.verdict for outcome in attacks.matrix()}
    assert set(found) == {(attack, mode) for attack in ATTACKS for mode in MODES}
    for (attack, mode), verdict in found.items():
        if attack in ("read the bus", "compare equal data"):
            assert verdict is (Verdict.READABLE if mode == "none" else Verdict.HIDDEN)
        elif mode in AUTHENTICATED:
            assert verdict is Verdict.DETECTED
        elif attack == "flip a tag":
            assert verdict is Verdict.NOTHING_TO_ATTACK
        else:
            assert verdict is Verdict.WRONG, "the attack must matter where nobody looks"


@pytest.mark.parametrize("mode", MODES)
def test_a_flip_in_any_burst_is_seen_by_every_mode_with_tags_and_by_no_other(mode: str) -> None:
    coverage = attacks.flip_every_burst(mode)
    assert coverage.flipped > 400
    assert coverage.detected == (coverage.flipped if mode in AUTHENTICATED else 0)


def test_an_attack_that_changes_nothing_has_no_effect(program: VtaProgram) -> None:
    assert Victim("tec", program).judge(lambda: None, "logits") is Verdict.NO_EFFECT


@pytest.mark.parametrize("attack", [name for name in ATTACKS if name.startswith(("flip", "change", "move", "replay"))])
def test_a_check_that_never_fails_is_found_out(
    program: VtaProgram, monkeypatch: pytest.MonkeyPatch, attack: str
) -> None:
    """Without its tag check, AES-GCM is counter mode: the same attack must then change the result or do nothing."""
    victim = Victim("tec", program)
    assert isinstance(victim.memory, TaggedDram)
    monkeypatch.setattr(victim.memory, "_cipher", _Unchecked(victim.memory._cipher))
    verdict = ATTACKS[attack](victim)
    assert verdict is (Verdict.NO_EFFECT if attack == "flip a tag" else Verdict.WRONG)


class _Unchecked:
    """Decrypts whatever the tag: sealing zeros under the same nonce gives the keystream."""

    def __init__(self, cipher: AESGCM) -> None:
        self._cipher = cipher

    def encrypt(self, nonce: bytes, data: bytes, aad: bytes | None) -> bytes:
        return self._cipher.encrypt(nonce, data, aad)

    def decrypt(self, nonce: bytes, data: bytes, aad: bytes | None) -> bytes:
        stream = self.encrypt(nonce, bytes(len(data) - 16), aad)
        return bytes(x ^ y for x, y in zip(data[:-16], stream[:-16], strict=True))


def test_moved_blocks_are_whole_blocks_of_one_size(program: VtaProgram) -> None:
    victim = Victim("tec", program)
    region = program.regions["block/b:weights"]
    blocks = attacks._blocks(victim, region)
    assert blocks[0][0] == region.base and blocks[-1][1] == region.end
    sizes = [end - start for start, end in blocks]
    assert len(sizes) > len(set(sizes)), "two blocks of one size must exist for one to take the other's place"


@pytest.mark.parametrize("make", [lambda: Victim("none"), lambda: Victim("tec")])
def test_a_victim_left_alone_computes_the_reference(make: Callable[[], Victim]) -> None:
    victim = make()
    network = victim.program.network
    expected = forward(network, victim.parameters, victim.image)[network.output]
    np.testing.assert_array_equal(victim.infer(), expected)


@pytest.mark.parametrize("mode", ["none", "tec"])
def test_addresses_on_the_bus_do_not_depend_on_the_image_or_the_weights(program: VtaProgram, mode: str) -> None:
    traces = []
    for seed, image in ((0, np.zeros(program.network.input_shape, np.int8)), (1, None)):
        trace: list[tuple[bool, int, int]] = []

        def watch(write: bool, address: int, data: bytes, trace: list[tuple[bool, int, int]] = trace) -> None:
            trace.append((write, address, len(data)))

        memory = protected_dram(mode, program, observer=watch)
        functional.load_constants(program, random_parameters(program.network, seed), memory)
        given = Victim(mode, program, seed).image if image is None else image
        functional.run(program, memory, given)
        traces.append(trace)
    assert len(traces[0]) > 50
    assert traces[0] == traces[1]
