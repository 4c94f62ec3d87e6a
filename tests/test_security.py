"""SECURITY.md names a test for every claim; here each must exist, and every adversary of the table have one."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)))
ROWS = [line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith("| Adversary")]


@pytest.mark.parametrize(("path", "name"), NAMED, ids=[name for _, name in NAMED])
def test_the_test_that_is_named_exists(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_claim_has_its_test() -> None:
    assert len(ROWS) >= 30
    for row in ROWS:
        assert re.search(r"\| `tests/[\w/]+\.py::test_\w+` \|$", row), row


def test_what_is_not_claimed_is_said() -> None:
    missing = TEXT.split("## What is not claimed", 1)[1]
    for subject in ("Root and the kernel", "Timing", "access patterns", "Rollback", "attestation keys", "modelled"):
        assert subject in missing
