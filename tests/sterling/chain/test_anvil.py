"""The node's process and its state: fetched, started, saved, and gone when we are."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from privlib.sterling.chain import AnvilChain, ContractCode, NodeError
from privlib.sterling.chain.contract import Contract
from privlib.sterling.chain.node import Node, anvil_binary


def test_state_goes_from_one_run_to_the_next(
    anvil: Callable[..., AnvilChain], probe: ContractCode, tmp_path: Path
) -> None:
    file = tmp_path / "chain.state"
    with anvil(state=file) as chain:
        alice = chain.account("alice")
        contract = chain.deploy(probe, 5, sender=alice)
        receipt = contract.transact("add", "kept", sender=alice, value=4)
        head = chain.head()
    with anvil(state=file) as chain:
        again = Contract(chain, contract.address, probe)
        assert chain.head() == head
        assert again.call("count") == 1 and chain.balance(contract.address) == 4
        assert [event["note"] for event in again.events("Counted")] == ["kept"]
        assert chain.receipt(receipt.transaction) == receipt
        again.transact("add", "on", sender=alice)
        assert again.call("count") == 2


def test_a_damaged_state_is_refused_and_the_node_stopped(anvil: Callable[..., AnvilChain], tmp_path: Path) -> None:
    file = tmp_path / "chain.state"
    file.write_bytes(b"not a state")
    with pytest.raises(NodeError, match="is not a state that anvil wrote"):
        anvil(state=file)
    assert file.read_bytes() == b"not a state"
    assert not nodes_of(os.getpid())


def test_closing_stops_the_process(anvil: Callable[..., AnvilChain]) -> None:
    with anvil():
        assert nodes_of(os.getpid())
    assert not nodes_of(os.getpid())


def test_the_node_dies_with_a_process_that_is_killed(anvil: Callable[..., AnvilChain]) -> None:
    reading, writing = os.pipe()
    owner = os.fork()  # not a new interpreter: importing everything would take longer than the test
    if owner == 0:
        anvil()
        os.write(writing, b"started")
        signal.pause()
    assert os.read(reading, 7) == b"started"
    nodes = nodes_of(owner)
    assert nodes
    os.kill(owner, signal.SIGKILL)
    os.waitpid(owner, 0)
    os.close(reading)
    os.close(writing)
    _, alive = psutil.wait_procs(nodes, timeout=60)
    assert not alive


def test_a_node_that_was_killed_is_noticed(anvil: Callable[..., AnvilChain]) -> None:
    with anvil() as chain:
        for node in nodes_of(os.getpid()):
            node.kill()
        with pytest.raises(NodeError, match="does not answer"):
            chain.head()


def test_a_binary_that_is_no_node_says_what_it_said(tmp_path: Path) -> None:
    fake = tmp_path / "anvil"
    fake.write_text("#!/bin/sh\necho cannot do this; exit 3\n")
    fake.chmod(0o755)
    with pytest.raises(NodeError, match="did not start: cannot do this"):
        Node(fake)


def test_without_npm_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRIVLIB_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NodeError, match="npm is not on PATH: install Node.js"):
        anvil_binary()


def test_a_failed_fetch_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho garbage > anvil.tgz\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PRIVLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(NodeError, match="cut or damaged"):
        anvil_binary()
    assert list((tmp_path / "cache" / "anvil").iterdir()) == []


def test_save_needs_a_file(anvil: Callable[..., AnvilChain]) -> None:
    with anvil() as chain, pytest.raises(Exception, match="state=PATH"):
        chain.save()


def nodes_of(pid: int) -> list[psutil.Process]:
    return [each for each in psutil.Process(pid).children(recursive=True) if each.name().startswith("anvil")]
