"""Targets are chosen by CPU features; both levels compile here, and what is compiled is the same everywhere."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from privlib import models
from privlib.compiler import CompileError, compile_inference, inference_stages, target
from privlib.compiler.library import build_library
from privlib.compiler.target import LEVELS, Machine, TargetError, machine, runs_here
from privlib.trusted import ArtifactError, runtime

FEATURES = {
    "x86-64-v3": "fpu sse2 avx avx2 fma bmi1 bmi2 f16c movbe abm",
    "x86-64-v4": "fpu sse2 avx avx2 fma bmi1 bmi2 f16c movbe abm avx512f avx512bw avx512cd avx512dq avx512vl",
}


def pretend(patch: pytest.MonkeyPatch, flags: str) -> None:
    patch.setattr(target, "cpu_features", lambda: frozenset(flags.split()))
    patch.setattr(runtime, "cpu_features", lambda: frozenset(flags.split()))


@pytest.mark.parametrize("level", FEATURES)
def test_the_level_follows_the_features(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, FEATURES[level])
    assert machine().level == level


@pytest.mark.parametrize("missing", sorted(LEVELS["x86-64-v4"] - LEVELS["x86-64-v3"]))
def test_one_missing_feature_lowers_the_level(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, FEATURES["x86-64-v4"].replace(missing, ""))
    assert machine().level == "x86-64-v3"
    assert not runs_here("x86-64-v4")


@pytest.mark.parametrize("flags", ["", "fpu sse2 avx", FEATURES["x86-64-v3"].replace("fma", "")])
def test_older_cpus_are_refused(flags: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, flags)
    with pytest.raises(TargetError, match="x86-64-v3"):
        machine()


def test_cores_are_those_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 9})
    assert machine("x86-64-v3").cores == 3
    assert machine("x86-64-v3", cores=7).cores == 7


@pytest.mark.parametrize("level", LEVELS)
def test_each_level_compiles_to_its_own_vectors(level: str, tmp_path: Path) -> None:
    """512-bit registers appear at the upper level alone; neither library is loaded."""
    planned = inference_stages(models.build("small_cnn"), 2, target=level)["planned"]
    library, fresh = build_library(planned, machine(level, cores=2))
    assert fresh and library.read_bytes()[:4] == b"\x7fELF"
    listing = subprocess.run(["objdump", "-d", str(library)], capture_output=True, text=True, check=True).stdout
    assert "%ymm" in listing and "vfmadd" in listing
    assert ("%zmm" in listing) == (level == "x86-64-v4")


def test_the_level_that_runs_here_can_be_named() -> None:
    torch.manual_seed(0)
    model, level = models.build("small_cnn"), machine().level
    assert runs_here(level)
    x = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(x)).numpy()
    compiled = compile_inference(model, 2, target=level)
    assert compiled.level == level
    np.testing.assert_allclose(compiled.run(x), expected, rtol=1e-4, atol=1e-5)


def test_a_level_above_this_cpu_is_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = compile_inference(nn.Linear(4, 3), 2, (4,), target="x86-64-v3").export(tmp_path / "model")
    pretend(monkeypatch, "fpu sse2 avx")
    with pytest.raises(CompileError, match="cannot run x86-64-v3"):
        compile_inference(nn.Linear(4, 3), 2, (4,), target="x86-64-v3")
    from privlib.trusted import load

    with pytest.raises(ArtifactError, match="avx2"):
        load(folder)


BUILD = """
import hashlib, os, sys
from privlib import models
from privlib.compiler import inference_stages
from privlib.compiler.library import build_library
from privlib.compiler.target import Machine, machine

cpu = machine("x86-64-v3", cores=2)
library, fresh = build_library(inference_stages(models.build("small_cnn"), 2, target="x86-64-v3")["planned"], cpu)
print(fresh, library.name, hashlib.sha256(library.read_bytes()).hexdigest())
"""


def test_libraries_are_identical_wherever_and_whenever_they_are_built(tmp_path: Path) -> None:
    """Other folders, hash seeds and random weights: the same key and the same bytes."""
    results = set()
    for seed in ("1", "4242"):
        folder = tmp_path / f"folder {seed}"
        folder.mkdir()
        environment = {**os.environ, "PRIVLIB_CACHE": str(folder), "PYTHONHASHSEED": seed, "PYTHONPATH": path()}
        script = textwrap.dedent(BUILD)
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=True
        )
        results.add(done.stdout)
    assert len(results) == 1
    assert results.pop().startswith("True ")


def test_another_machine_is_another_key() -> None:
    planned = inference_stages(nn.Linear(29, 3), 2, (29,), target="x86-64-v3")["planned"]
    several = [Machine("x86-64-v3", 32, 4, 2, cores) for cores in (1, 2)]
    assert len({build_library(planned, cpu)[0] for cpu in several}) == 2


CORES = """
import os, time
import numpy as np
import torch
from torch import nn
from privlib.compiler import compile_inference

def by_thread():
    busy = {}
    for task in os.listdir("/proc/self/task"):
        fields = open(f"/proc/self/task/{task}/stat").read().rsplit(")", 1)[1].split()
        busy[task] = int(fields[11]) + int(fields[12])
    return busy

torch.set_num_threads(1)
cores = os.sched_getaffinity(0)
model = nn.Sequential(nn.Conv2d(64, 128, 3, padding=1), nn.Conv2d(128, 64, 3, padding=1))
compiled = compile_inference(model, 8, (64, 32, 32))
x = np.zeros((8, 64, 32, 32), np.float32)
compiled.run(x)
before, start = by_thread(), time.monotonic()
while time.monotonic() - start < 3:
    compiled.run(x)
after = by_thread()
ticks = {task: after[task] - before.get(task, 0) for task in after}
working = [int(task) for task in after if ticks[task] >= max(ticks.values()) / 3]
bound = [min(os.sched_getaffinity(task)) for task in working if len(os.sched_getaffinity(task)) == 1]
print(len(cores), max(ticks.values()), len(working), len(bound) - len(set(bound)))
"""


def path() -> str:
    return str(Path(target.__file__).parents[2])


def test_every_available_core_works() -> None:
    """TVM's pool takes half of the hardware threads unless told, and has bound two threads to one core."""
    environment = {**os.environ, "PYTHONPATH": path()}
    environment.pop("TVM_NUM_THREADS", None)
    done = subprocess.run([sys.executable, "-c", CORES], env=environment, capture_output=True, text=True, check=True)
    cores, busiest, working, sharing = map(int, done.stdout.split())
    assert busiest > 0
    assert working == cores
    assert sharing == 0, "threads are bound to one core"
