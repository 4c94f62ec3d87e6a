"""The transparency log: RFC 9162's tree on chain, and proofs from its events."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privlib.sterling.chain import Contract, EmbeddedChain, RevertedError
from privlib.sterling.contracts import transparency
from privlib.sterling.contracts.market import code
from privlib.sterling.contracts.terms import LogKind
from privlib.sterling.contracts.transparency import ProofError, check_inclusion, entry, inclusion_proof, root

from .scene import Scene

# The entries and roots of Certificate Transparency's reference tests (certificate-transparency-go, merkle/testonly).
ENTRIES = [bytes.fromhex(each) for each in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")]
ENTRIES.append(bytes(range(0x60, 0x70)))
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


def test_roots_are_those_of_certificate_transparency() -> None:
    assert root([]) == hashlib.sha256(b"").digest()
    for size, expected in enumerate(ROOTS, 1):
        assert root(ENTRIES[:size]).hex() == expected


@settings(deadline=None)
@given(size=st.integers(1, 40), data=st.data())
def test_every_entry_has_a_proof_and_only_it(size: int, data: st.DataObject) -> None:
    entries = [number.to_bytes(2, "big") for number in range(size)]
    index = data.draw(st.integers(0, size - 1))
    proof, expected = inclusion_proof(entries, index), root(entries)
    check_inclusion(entries[index], index, size, proof, expected)
    other = data.draw(st.integers(0, size - 1).filter(lambda each: each != index)) if size > 1 else 1
    for wrong in (
        (b"another", index, size, proof, expected),
        (entries[index], other, size, proof, expected),
        (entries[index], index, size, [*proof, bytes(32)], expected),
        (entries[index], index, size, proof, bytes(32)),
        (entries[index], index, size, proof[:-1] if proof else [bytes(32)], expected),
    ):
        with pytest.raises(ProofError):
            check_inclusion(*wrong)


def test_an_inner_node_does_not_pass_for_an_entry() -> None:
    left, right = (hashlib.sha256(b"\0" + each).digest() for each in (b"a", b"b"))
    with pytest.raises(ProofError):
        check_inclusion(left + right, 0, 1, [], root([b"a", b"b"]))


def test_proofs_of_what_is_not_there_are_refused() -> None:
    with pytest.raises(ProofError, match="the log has 1"):
        inclusion_proof([b"a"], 1)
    with pytest.raises(ProofError, match="there is none"):
        check_inclusion(b"a", 1, 1, [], root([b"a"]))


def test_the_contract_keeps_the_trees_root_as_it_grows(scene: Scene) -> None:
    log = scene.market.log
    assert log.call("root") == root([])
    entries: list[bytes] = []
    for number in range(20):
        author = (scene.admin, scene.providers[0])[number % 2]
        kind, digest = list(LogKind)[number % 3], bytes([number]) * 32
        (event,) = log.events_of(log.transact("append", kind, digest, sender=author))
        entries.append(entry(kind, author.address, digest))
        assert (event["index"], event["author"], event["root"]) == (number, author.address, root(entries))
        assert (log.call("size"), log.call("root")) == (number + 1, root(entries))
    assert read(log) == entries
    check_inclusion(entries[5], 5, 20, inclusion_proof(entries, 5), log.call("root"))


def test_the_log_answers_whether_somebody_published_something(scene: Scene) -> None:
    log = scene.market.log
    log.transact("append", LogKind.POLICY, b"p" * 32, sender=scene.admin)
    assert log.call("includes", LogKind.POLICY, scene.admin, b"p" * 32)
    assert not log.call("includes", LogKind.POLICY, scene.stranger, b"p" * 32)
    assert not log.call("includes", LogKind.MEASUREMENT, scene.admin, b"p" * 32)
    for kind in (0, 4):
        with pytest.raises(RevertedError, match="no such kind"):
            log.transact("append", kind, b"p" * 32, sender=scene.admin)


@pytest.mark.soak
def test_a_long_log() -> None:
    chain = EmbeddedChain()
    author = chain.account("author")
    log = chain.deploy(code("TransparencyLog"), sender=author)
    entries = []
    for number in range(300):
        log.transact("append", LogKind.PROGRAM, number.to_bytes(32, "big"), sender=author)
        entries.append(entry(LogKind.PROGRAM, author.address, number.to_bytes(32, "big")))
        assert log.call("root") == root(entries)
    for index in range(300):
        check_inclusion(entries[index], index, 300, transparency.inclusion_proof(entries, index), log.call("root"))


def read(log: Contract) -> list[bytes]:
    """The log's entries from its events, as a verifier gets them."""
    return [entry(LogKind(each["kind"]), each["author"], each["digest"]) for each in log.events("Appended")]
