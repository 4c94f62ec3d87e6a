"""`privlib verify-release`: every claim with its trust anchor; non-zero for what was altered or hangs from nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from privlib.enclave.image import EnclaveImage
from privlib.enclave.release import Release
from privlib.enclave.simulated_root import SimulatedRoot
from privlib.suite import cli
from tests.enclave.sources import SOURCES


def test_a_second_process_verifies_with_file_and_root_alone(
    issued: Release, root: SimulatedRoot, training_image: EnclaveImage, tmp_path: Path
) -> None:
    """Without TVM, PyTorch, or a network; every claim with its trust anchor."""
    issued.save(tmp_path / "model.release")
    (tmp_path / "root.der").write_bytes(root.certificate)
    code = (
        "import sys\nfrom privlib.suite import cli\ncode = cli.main(sys.argv[1:])\n"
        "assert not {'torch', 'tvm', 'tvm_ffi', 'scipy'} & set(sys.modules)\nsys.exit(code)\n"
    )
    command = [sys.executable, "-c", code, "verify-release", str(tmp_path / "model.release")]
    environment = {"PYTHONPATH": str(SOURCES), "PRIVLIB_OFFLINE": "1", "PRIVLIB_CACHE": str(tmp_path / "none")}
    done = subprocess.run(
        [*command, "--root", str(tmp_path / "root.der")], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[-1].startswith("verdict       accepted")
    claims, anchors = said[0:-1:2], said[1:-1:2]
    assert all(each.strip().startswith("anchor: ") for each in anchors) and len(claims) == len(anchors)
    assert "SIMULATED root, NOT INTEL" in claims[0] and "self-asserted" in anchors[-1]
    text = done.stdout
    assert training_image.measurement.hex() in text and issued.claims["model"] in text and "ε = " in text
    refused = subprocess.run(command, capture_output=True, text=True, env=environment)  # Intel's root
    assert refused.returncode == 1 and refused.stdout == "" and "does not verify under this root" in refused.stderr


def test_the_command_refuses_what_was_altered(
    issued: Release, root: SimulatedRoot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "root.der").write_bytes(root.certificate)
    data = bytearray(issued.encode())
    data[-1] ^= 1
    (tmp_path / "altered").write_bytes(data)
    options = ["--root", str(tmp_path / "root.der")]
    assert cli.main(["verify-release", str(tmp_path / "altered"), *options]) == 1
    assert cli.main(["verify-release", str(tmp_path / "missing"), *options]) == 1
    issued.save(tmp_path / "good")
    assert cli.main(["verify-release", str(tmp_path / "good"), *options, "--measurement", "00" * 32]) == 1
    said = capsys.readouterr()
    assert said.out == "" and "cannot be read" in said.err and "is not one that the policy names" in said.err
