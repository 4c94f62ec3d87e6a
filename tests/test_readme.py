"""What the README says can be done can be done."""

import argparse
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def commands() -> list[list[str]]:
    """Every line of the shell blocks, and every command in backquotes, without comments."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    inline = re.findall(r"`((?:make|privlib) [^`]+)`", README)
    return [words for line in [*lines, *inline] if (words := shlex.split(line, comments=True))]


def test_every_make_target_exists() -> None:
    targets = {words[1] for words in commands() if words[0] == "make"}
    assert {"report", "test", "lab", "soak"} <= targets
    for target in targets:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_every_privlib_command_is_understood() -> None:
    from privlib.suite import cli

    parser: argparse.ArgumentParser = cli._parser()
    asked = [words[1:] for words in commands() if words[0] == "privlib"]
    assert {words[0] for words in asked} >= {"run", "bench", "report", "data", "status"}
    for words in asked:
        parser.parse_args(words)


def test_every_path_in_the_map_exists() -> None:
    (tree,) = blocks("")
    parents: list[str] = []
    seen = 0
    for line in tree.splitlines():
        name = line.strip().split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        parents[depth:] = [name]
        assert (ROOT / "/".join(part.rstrip("/") for part in parents)).exists(), line
        seen += 1
    assert seen > 8


def test_every_package_is_in_the_map() -> None:
    (tree,) = blocks("")
    for path in (ROOT / "privlib").iterdir():
        if (path / "__init__.py").exists():
            assert f"\n  {path.name}/" in tree, f"{path.name} is missing from the README's map"


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from privlib import trained

    monkeypatch.setenv("PRIVLIB_OFFLINE", "1")
    monkeypatch.setenv("PRIVLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    recipe = trained.Recipe(epochs=1, learning_rate=0.02, train_images=256)
    monkeypatch.setitem(trained.RECIPES, ("small_cnn", "quick"), recipe)
    names: dict[str, Any] = {}
    for example in blocks("python"):  # one after the other, as a reader would
        exec(compile(example, "README.md", "exec"), names)
    assert (tmp_path / "small_cnn.privlib").exists()
    assert names["step"].private and names["step"].steps == 3
