"""Set-up: what is missing is named first, what was interrupted can be repeated."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "tools" / "setup_env.sh"


def executable(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder to be PATH: the few programs that the script uses, without Python and without a compiler."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for program in ("bash", "env", "dirname", "df", "awk", "date", "mkdir", "tail"):
        found = shutil.which(program)
        assert found is not None
        (folder / program).symlink_to(found)
    return folder


def set_up(machine: Path, folder: Path, python: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(SCRIPT), python, str(folder / "env"), str(folder / "env" / "stamp")]
    environment = {"PATH": str(machine), "HOME": str(folder), **variables}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


def fake_python(machine: Path, folder: Path, log: Path, version_ok: int = 0) -> Path:
    """An interpreter that makes environments of itself and notes what it is asked to install; `break` stops it."""
    return executable(
        folder / "python",
        f"""#!{shutil.which("bash")}
case "$*" in
  *version_info*) exit {version_ok} ;;
  *--version*) echo "Python 3.9.1" ;;
  *"-m venv"*) mkdir -p "${{@: -1}}/bin"; {shutil.which("cp")} "$0" "${{@: -1}}/bin/python"; echo venv >>{log} ;;
  *"-m pip --version"*) [ -e "$0" ] ;;
  *"pip install"*) echo "$*" >>{log}; [ ! -e {folder}/break ] ;;
esac
""",
    )


def test_everything_missing_is_named_at_once_and_nothing_is_made(machine: Path, tmp_path: Path) -> None:
    result = set_up(machine, tmp_path, "python3.11", PRIVLIB_ENV_MB="999999999")
    assert result.returncode == 1
    for missing in ("python3.11: install Python 3.11 or 3.12", "a C++ compiler", "disk space"):
        assert missing in result.stderr
    assert not (tmp_path / "env").exists()


def test_another_python_version_is_named(machine: Path, tmp_path: Path) -> None:
    python = fake_python(machine, tmp_path, tmp_path / "log", version_ok=1)
    result = set_up(machine, tmp_path, str(python))
    assert result.returncode == 1 and f"Python 3.11 or 3.12: {python} is Python 3.9.1" in result.stderr


def test_an_interrupted_set_up_leaves_no_stamp_and_is_repeated(machine: Path, tmp_path: Path) -> None:
    executable(machine / "g++", "#!/bin/sh\n")
    log = tmp_path / "log"
    python = fake_python(machine, tmp_path, log)
    (tmp_path / "break").touch()
    broken = set_up(machine, tmp_path, str(python), PRIVLIB_ENV_MB="1")
    assert broken.returncode != 0 and not (tmp_path / "env" / "stamp").exists()
    (tmp_path / "break").unlink()
    done = set_up(machine, tmp_path, str(python), PRIVLIB_ENV_MB="1")
    assert done.returncode == 0 and "environment ready in " in done.stdout
    assert (tmp_path / "env" / "stamp").exists()
    asked = log.read_text(encoding="utf-8").splitlines()
    assert asked.count("venv") == 1  # what was there is kept: a CPU build of torch, say
    assert asked[-2].endswith("-r requirements.lock") and asked[-1].endswith("--no-deps --no-build-isolation -e .")


def test_a_conda_environment_is_used_as_it_is(machine: Path, tmp_path: Path) -> None:
    executable(machine / "g++", "#!/bin/sh\n")
    log = tmp_path / "log"
    python = fake_python(machine, tmp_path, log)
    (tmp_path / "env" / "conda-meta").mkdir(parents=True)
    (tmp_path / "env" / "bin").mkdir()
    shutil.copy(python, tmp_path / "env" / "bin" / "python")
    assert set_up(machine, tmp_path, str(python)).returncode == 0
    assert "venv" not in log.read_text(encoding="utf-8").splitlines()


def make(*arguments: str, **variables: str) -> str:
    environment = {**os.environ, **variables}
    environment.pop("MAKEFLAGS", None)
    command = ["make", "--dry-run", "--always-make", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout


def test_report_is_environment_data_notebooks_report_in_this_order() -> None:
    planned = make("report", "VENV=somewhere", "PYTHON=python3.12")
    steps = ["tools/setup_env.sh", "privlib data fetch", "privlib run --profile quick", "privlib report"]
    places = [planned.index(step) for step in steps]
    assert places == sorted(places)
    assert 'tools/setup_env.sh "python3.12" "somewhere"' in planned


def test_tests_run_lint_and_types_first_and_leave_the_soak_out() -> None:
    planned = make("test")
    assert planned.index("ruff check") < planned.index("mypy") < planned.index('pytest -m "not soak"')
    assert "pytest -m soak" in make("soak")


def test_the_lock_is_never_made_by_accident() -> None:
    assert "lock.py" not in make("report")
    assert "lock.py" in make("lock") and "environment_yml.py" in make("lock")


def test_jupyter_finds_the_kernel_of_this_environment() -> None:
    code = "import jupyter_client as j; print(j.KernelManager(kernel_name='python3').format_kernel_cmd()[0])"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    assert Path(found).resolve() == Path(sys.executable).resolve()
    assert "jupyter lab --ServerApp.root_dir=" in make("lab")


def test_continuous_integration_runs_make_test() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert script.rstrip().endswith("exec make test")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
