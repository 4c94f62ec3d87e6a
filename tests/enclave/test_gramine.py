"""The manifest for Gramine, read as TOML; and the whole backend against stand-ins for Gramine's programs.

The stand-ins run the staged worker by a bare Python, without SGX and without a library OS: they show that what is
staged is complete and that the worker speaks over its standard input and output, and nothing about Gramine.
"""

import hashlib
import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privlib.enclave.errors import LaunchError
from privlib.enclave.image import EnclaveImage
from privlib.enclave.launcher import launch
from privlib.enclave.platforms import gramine
from privlib.enclave.platforms.gramine import GraminePlatform
from privlib.enclave.signer import Signer
from privlib.trusted import CompiledModel, load
from privlib.trusted.platform import identity_report_data
from tests.enclave.conformance import PlatformConformance

LIBOS, RUNTIME = "/usr/lib/gramine/libsysdb.so", "/usr/lib/gramine/runtime/glibc"


def rendered(template: str) -> dict[str, Any]:
    """As gramine-manifest fills it in."""
    text = template.replace("{{ gramine.libos }}", LIBOS).replace("{{ gramine.runtimedir() }}", RUNTIME)
    assert "{{" not in text
    return tomllib.loads(text)


@pytest.fixture(scope="module")
def staged(image: EnclaveImage, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("gramine")
    return folder, rendered(gramine.stage(image, folder, threads=2).read_text())


def test_every_file_is_trusted_by_its_measured_hash_and_none_without(
    image: EnclaveImage, staged: tuple[Path, dict[str, Any]]
) -> None:
    folder, manifest = staged
    measured = {file.sha256 for file in image.files}
    listed = [each for each in manifest["sgx"]["trusted_files"] if not isinstance(each, str)]
    assert [each for each in manifest["sgx"]["trusted_files"] if isinstance(each, str)] == [
        f"file:{LIBOS}",
        f"file:{RUNTIME}/",
    ]
    for each in listed:
        path = folder / each["uri"].removeprefix("file:")
        assert hashlib.sha256(path.read_bytes()).hexdigest() == each["sha256"] and each["sha256"] in measured
    left_out = measured - {each["sha256"] for each in listed}
    names = {file.name for file in image.files if file.sha256 in left_out}
    assert names <= {f"{place}/{name}" for place in ("host", "system") for name in gramine._OF_GRAMINE}
    unpacked = {str(path.relative_to(folder)) for path in (folder / "image").rglob("*") if path.is_file()}
    assert unpacked == {each["uri"].removeprefix("file:") for each in listed if not each["uri"].startswith("file:/")}
    assert "allowed_files" not in manifest["sgx"] and "file_check_policy" not in manifest["sgx"]


def test_nothing_that_the_host_says_reaches_the_program(staged: tuple[Path, dict[str, Any]]) -> None:
    _, manifest = staged
    text = json.dumps(manifest)
    assert "insecure" not in text and "passthrough" not in text
    assert manifest["loader"]["argv"][1:3] == ["-I", "-S"]
    assert manifest["loader"]["argv"][-2:] == ["/image/loader.py", "gramine"]
    assert manifest["loader"]["argv"][0] == manifest["libos"]["entrypoint"]
    assert set(manifest["loader"]["env"]) == {"LC_ALL", "LD_LIBRARY_PATH"}
    assert manifest["sys"]["disallow_subprocesses"] is True


def test_the_enclave_is_what_the_image_says(image: EnclaveImage, staged: tuple[Path, dict[str, Any]]) -> None:
    sgx = staged[1]["sgx"]
    assert (sgx["debug"], sgx["remote_attestation"]) == (False, "dcap")
    assert (sgx["isvprodid"], sgx["isvsvn"]) == (image.signature.product_id, image.signature.svn)
    assert sgx["max_threads"] == 2 + 5
    size = int(sgx["enclave_size"].removesuffix("M")) << 20
    assert size >= image.configuration["memory_bytes"] and size & (size - 1) == 0
    level = json.loads(image.file("artifact/manifest.json").read())["level"]
    assert sgx["require_avx512"] is (level == "x86-64-v4")


def test_what_python_loads_from_the_host_is_mounted_where_it_looks(
    image: EnclaveImage, staged: tuple[Path, dict[str, Any]]
) -> None:
    mounts = {each["path"]: each["uri"] for each in staged[1]["fs"]["mounts"]}
    assert mounts.pop("/lib") == f"file:{RUNTIME}" and mounts.pop("/image") == "file:image"
    assert all(uri == f"file:{path}" for path, uri in mounts.items())
    host = {
        str(f.path) for f in image.files if f.name.startswith("host/") and Path(f.name).name not in gramine._OF_GRAMINE
    }
    assert set(mounts) == host and staged[1]["libos"]["entrypoint"] in host


def test_the_manifest_is_the_same_every_time(image: EnclaveImage) -> None:
    first, second = (gramine.manifest_template(image, debug=True, threads=4) for _ in range(2))
    assert first == second and rendered(first)["sgx"]["debug"] is True


# A stand-in for Gramine's three programs: renders, "signs" (a SIGSTRUCT with the manifest's hash as ENCLAVEHASH), runs.
STAND_IN = """#!{python} -IS
import hashlib, os, sys
sys.path.append({stdlib!r})
program, arguments = os.path.basename(sys.argv[0]), sys.argv[1:]
if program == "gramine-manifest":
    text = open(arguments[0]).read()
    text = text.replace("{{{{ gramine.libos }}}}", "/l").replace("{{{{ gramine.runtimedir() }}}}", "/r")
    open(arguments[1], "w").write(text)
elif program == "gramine-sgx-sign":
    options = dict(zip(arguments[::2], arguments[1::2]))
    text = open(options["--manifest"]).read()
    assert "PRIVATE KEY" in open(options["--key"]).read()
    open(options["--output"], "w").write(text)
    digest = hashlib.sha256(text.split("# privlib: image")[1].encode()).digest()
    open("privlib.sig", "wb").write(bytes(960) + digest + bytes(816))
else:
    manifest = {{}}
    import tomllib
    argv = tomllib.load(open("privlib.manifest.sgx", "rb"))["loader"]["argv"]
    os.execve(argv[0], [each.replace("/image/", os.getcwd() + "/image/") for each in argv], {{"LC_ALL": "C"}})
"""


class StandIn(GraminePlatform):
    """Gramine's programs replaced; named as what it is."""

    name = "gramine"

    def missing(self) -> str:
        return ""


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = STAND_IN.format(python=sys.executable, stdlib=os.path.dirname(os.__file__))
    for program in ("gramine-sgx", "gramine-sgx-sign", "gramine-manifest"):
        (tmp_path / program).write_text(text)
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)


@pytest.mark.usefixtures("stand_ins")
class TestBackendAgainstStandIns(PlatformConformance):
    @pytest.fixture
    def platform(self, signer: Signer) -> StandIn:
        return StandIn(signer)

    @pytest.fixture
    def model(self, inference_artifact: Path) -> CompiledModel:
        loaded = load(inference_artifact)
        assert isinstance(loaded, CompiledModel)
        return loaded


@pytest.mark.usefixtures("stand_ins")
def test_an_image_of_another_signer_is_refused(image: EnclaveImage) -> None:
    with pytest.raises(LaunchError, match="signed by another key"):
        launch(image, StandIn(Signer.generate()))


@pytest.mark.usefixtures("stand_ins")
def test_a_failing_program_of_gramine_is_named(image: EnclaveImage, signer: Signer, tmp_path: Path) -> None:
    (tmp_path / "gramine-sgx-sign").write_text("#!/bin/sh\necho no such key >&2\nexit 1\n")
    with pytest.raises(LaunchError, match="gramine-sgx-sign failed: no such key"):
        launch(image, StandIn(signer))


@pytest.mark.usefixtures("stand_ins")
def test_quotes_are_read_inside(image: EnclaveImage, signer: Signer, tmp_path_factory: pytest.TempPathFactory) -> None:
    """/dev/attestation as Gramine documents it: write user_report_data, read quote. Here a folder stands for it."""
    from tests.enclave.sources import clone, image_of

    sources = clone(tmp_path_factory.mktemp("quotes"))
    device = tmp_path_factory.mktemp("attestation")
    worker = sources / "privlib" / "trusted" / "worker.py"
    text = worker.read_text()
    assert '_FILES_OF_GRAMINE = Path("/dev/attestation")' in text
    worker.write_text(text.replace('"/dev/attestation"', repr(str(device))))
    (device / "quote").write_bytes(b"quote of this enclave")
    with launch(image_of(sources, image, signer), StandIn(signer)) as enclave:
        nonce = bytes(range(32))
        assert enclave.quote(nonce) == b"quote of this enclave"
        assert (device / "user_report_data").read_bytes() == identity_report_data(nonce)
        x = np.zeros((1, 3, 32, 32), np.float32)
        assert enclave.connect(None).infer(x).shape == (1, 10)
