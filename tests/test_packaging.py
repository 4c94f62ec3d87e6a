"""pyproject.toml is the truth: the lock, environment.yml, imports and installed package follow it."""

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
import venv
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def tool(name: str) -> ModuleType:
    """A script of tools/ as a module."""
    specification = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def requirements() -> dict[str, Requirement]:
    found = [Requirement(text) for text in tool("lock").requirements()]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def locked() -> dict[str, Version]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def test_environment_yml_is_what_pyproject_says() -> None:
    assert (ROOT / "environment.yml").read_text(encoding="utf-8") == tool("environment_yml").render()


def test_environment_yml_takes_only_python_and_pip_from_conda() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = environment["dependencies"]
    assert [re.split(r"[<>=]", each)[0] for each in conda] == ["python", "pip"]
    names = {canonicalize_name(Requirement(each).name) for each in pip["pip"] if each != "-e ."}
    assert names == set(requirements())
    assert names >= {"jupyterlab", "apache-tvm", "numpy", "matplotlib", "opacus", "pandas", "papermill", "torch"}


def test_a_changed_requirement_is_noticed_as_drift(tmp_path: Path) -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    changed = tmp_path / "pyproject.toml"
    changed.write_text(text.replace('"opacus==1.6.0"', '"opacus==1.5.0"'), encoding="utf-8")
    render = tool("environment_yml").render
    assert render(changed) != render()


def test_the_lock_satisfies_every_requirement() -> None:
    pins = locked()
    for name, requirement in requirements().items():
        assert name in pins, f"{name} is not locked: run `make lock`"
        assert requirement.specifier.contains(pins[name], prereleases=True), f"{name} {pins[name]}: run `make lock`"


def test_the_lock_is_plain_pins_without_hosts_or_gpu_packages() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    lines = text.splitlines()
    assert lines[0].startswith("# Made by `make lock`")
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][A-Za-z0-9.]*", line) for line in lines[1:])
    assert lines[1:] == sorted(lines[1:])
    assert not [line for line in lines if line.startswith(("nvidia-", "triton", "cuda-"))]


def test_pins_drop_local_versions_and_refuse_what_has_no_version() -> None:
    pins = tool("lock").pins
    assert pins("torch==2.13.0+cpu\nA_b.C==1\nnvidia-nccl-cu12==2\ntriton==3\n") == ["a-b-c==1", "torch==2.13.0"]
    with pytest.raises(SystemExit, match="cannot pin"):
        pins("-e /somewhere/else")


def top_level_imports(folder: str) -> set[str]:
    found: set[str] = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("folder", ["privlib", "benchmarks"])
def test_every_imported_library_is_a_declared_requirement(folder: str) -> None:
    owners = metadata.packages_distributions()
    own = {"privlib", "benchmarks"} | {path.stem for path in (ROOT / folder).rglob("*.py")}
    comes_with = {"apache-tvm-ffi": "apache-tvm", "cycler": "matplotlib", "jupyter-core": "jupyter-client"}
    undeclared = set()
    for name in top_level_imports(folder) - set(sys.stdlib_module_names) - own:
        distributions = {canonicalize_name(each) for each in owners.get(name, [name])}
        if not {comes_with.get(each, each) for each in distributions} & requirements().keys():
            undeclared.add(name)
    assert not undeclared


def test_the_package_imports_no_peer() -> None:
    peers = {"opacus", "onnx", "onnxruntime", "jax", "fastDP"}
    assert not top_level_imports("privlib") & peers


def test_the_command_and_the_shipped_files_are_declared() -> None:
    assert PROJECT["scripts"] == {"privlib": "privlib.suite.cli:main"}
    assert Version("3.11.0") in Requirement(f"python{PROJECT['requires-python']}").specifier
    assert Version("3.13.0") not in Requirement(f"python{PROJECT['requires-python']}").specifier
    sample = ROOT / "privlib" / "data" / "cifar10-sample"
    assert sum(path.stat().st_size for path in sample.iterdir()) <= 3_000_000


def test_a_wheel_carries_the_sample_and_the_type_marker(tmp_path: Path) -> None:
    source = tmp_path / "source"
    copied = ["pyproject.toml", "README.md", "LICENSE", "privlib"]
    source.mkdir()
    subprocess.run(["cp", "-r", *(str(ROOT / each) for each in copied), str(source)], check=True)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    command = [sys.executable, "-m", "pip", "wheel", *options, "."]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    listing = subprocess.run(
        [sys.executable, "-m", "zipfile", "-l", str(next(tmp_path.glob("privlib-*.whl")))],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for shipped in ("privlib/py.typed", "cifar10-sample/train.png", "cifar10-sample/manifest.json", "licenses/LICENSE"):
        assert shipped in listing
    assert "tests/" not in listing


def test_the_citation_names_the_talk() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["license"] == "Apache-2.0" == PROJECT["license"]
    titles = [reference["title"] for reference in citation["references"]]
    assert titles[0] == "Fast & Faster Privacy-Preserving ML in Secure Hardware Enclaves"
    assert all(reference["authors"] and reference["year"] for reference in citation["references"])


@pytest.mark.soak
def test_an_environment_builds_from_the_pip_section_of_environment_yml(tmp_path: Path) -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    wanted = [each for each in environment["dependencies"][-1]["pip"] if each != "-e ."]
    file = tmp_path / "requirements.txt"
    file.write_text("\n".join([*wanted, f"-e {ROOT}"]), encoding="utf-8")
    venv.create(tmp_path / "environment", with_pip=True)
    python = str(tmp_path / "environment" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", str(file)], check=True, cwd=ROOT)
    subprocess.run([python, "-m", "pip", "check"], check=True)
    code = "import jupyterlab, matplotlib, numpy, opacus, pandas, papermill, privlib.models, torch, tvm"
    subprocess.run([python, "-c", code], check=True, cwd=tmp_path)
