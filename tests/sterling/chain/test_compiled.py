"""The compiler: pinned, one mode, and free of the faults that were known of it in that mode."""

from pathlib import Path

import pytest

from privlib.sterling.chain import ChainError, EmbeddedChain, compile_vyper, compiled

SIDE_EFFECT = """# pragma version 0.4.3
m: HashMap[uint256, String[33]]
x: DynArray[uint256, 32]

@external
def test() -> uint256:
    for i: uint256 in range(32):
        self.x.append(i)
    assert len(self.x) == 32
    self.m[self.x.pop()] = "Hello world"
    return len(self.x)
"""


def test_a_side_effect_in_an_index_never_happens_twice_in_the_shipped_mode(tmp_path: Path) -> None:
    """Case 39 (vyper 4072, 4071): some modes evaluated the index twice. The pinned compiler refuses to, in our mode."""
    source = tmp_path / "SideEffect.vy"
    source.write_text(SIDE_EFFECT)
    with pytest.raises(ChainError, match="SideEffect.vy does not compile: non-unique symbols"):
        compile_vyper(source)
    source.write_text(SIDE_EFFECT.replace("self.m[self.x.pop()]", "last: uint256 = self.x.pop()\n    self.m[last]"))
    compile_vyper.cache_clear()
    chain = EmbeddedChain()
    contract = chain.deploy(compile_vyper(source), sender=chain.account("alice"))
    assert contract.call("test") == 31


def test_another_compiler_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "version", lambda name: "0.4.4")
    with pytest.raises(ChainError, match="for Vyper 0.4.3, installed is 0.4.4"):
        compile_vyper(tmp_path / "Any.vy")


def test_a_source_that_does_not_compile_is_named(tmp_path: Path) -> None:
    source = tmp_path / "Broken.vy"
    source.write_text("x: uint256 = ")
    with pytest.raises(ChainError, match="Broken.vy does not compile"):
        compile_vyper(source)


def test_what_was_compiled_is_taken_from_the_cache_until_a_source_changes(tmp_path: Path, cache: Path) -> None:
    source = tmp_path / "Kept.vy"
    source.write_text("@external\ndef f() -> uint256:\n    return 1\n")
    first = compile_vyper(source)
    (kept,) = (cache / "contracts").glob("Kept-*.json")
    compile_vyper.cache_clear()
    assert compile_vyper(source) == first
    kept.write_text("torn")  # as a full disk would leave it
    compile_vyper.cache_clear()
    assert compile_vyper(source).runtime == first.runtime
    source.write_text("@external\ndef f() -> uint256:\n    return 2\n")
    compile_vyper.cache_clear()
    assert compile_vyper(source).runtime != first.runtime
    assert len(list((cache / "contracts").glob("Kept-*.json"))) == 2
