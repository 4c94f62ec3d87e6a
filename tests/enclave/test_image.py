"""Images: every byte measured, the same wherever it lies."""

import dataclasses
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from privlib.enclave.errors import ImageError
from privlib.enclave.image import EnclaveImage, build_image
from privlib.enclave.inventory import File, made, runtime_files
from privlib.enclave.signer import Signer
from privlib.enclave.tcb import pytorch_tcb
from privlib.trusted import ArtifactError
from tests.enclave.sources import SOURCES, clone, image_of

ELSEWHERE = """
import sys
from privlib.enclave.image import build_image
from privlib.enclave.signer import Signer
import privlib
print(privlib.__file__)
print(build_image(sys.argv[1], signer=Signer.load(sys.argv[2]), memory_bytes=1 << 30).measurement.hex())
"""


def test_a_clone_in_another_folder_gives_the_same_measurement(
    image: EnclaveImage, inference_artifact: Path, signer: Signer, tmp_path: Path
) -> None:
    sources = clone(tmp_path / "another clone")
    shutil.copytree(inference_artifact, tmp_path / "copy of the artifact")
    (tmp_path / "signer.pem").write_bytes(signer.pem())
    environment = {**os.environ, "PYTHONPATH": str(sources), "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", ELSEWHERE, str(tmp_path / "copy of the artifact"), str(tmp_path / "signer.pem")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines() == [f"{sources}/privlib/__init__.py", image.measurement.hex()], done.stderr


def test_the_measurement_is_the_hash_of_a_text_that_names_every_file(image: EnclaveImage) -> None:
    head, system, *rows = image.manifest.splitlines()
    assert image.measurement == hashlib.sha256(image.manifest.encode()).digest()
    assert (head, system.split()[0]) == ("privlib enclave image 1", "Python")
    assert [row.split(" ", 3)[3] for row in rows] == sorted(file.name for file in image.files)
    for row, file in zip(rows, image.files, strict=True):
        digest, size, source, _ = row.split(" ", 3)
        data = file.read()
        assert (digest, int(size)) == (hashlib.sha256(data).hexdigest(), len(data))
        assert source == "-" or re.fullmatch("[0-9a-f]{64}", source)


def test_no_path_of_this_machine_is_measured(image: EnclaveImage) -> None:
    here = [str(SOURCES), sysconfig.get_path("purelib"), sysconfig.get_path("stdlib"), str(Path.home())]
    assert not [path for path in here if path in image.manifest]
    compiled = [file.read() for file in image.files if file.name.endswith(".pyc")]
    assert len(compiled) > 200
    assert not [path for path in here if any(path.encode() in data for data in compiled)]


def test_neither_pytorch_nor_a_compiler_is_inside(image: EnclaveImage) -> None:
    names = [file.name for file in image.files]
    assert not [name for name in names if "torch/" in name or "libtvm_compiler" in name or "llvm" in name.lower()]
    own = {name for name in names if name.startswith("app/")}
    assert all(name.startswith(("app/privlib/trusted/", "app/privlib/errors", "app/privlib/__init__")) for name in own)
    assert {"artifact/library.so", "artifact/parameters.bin", "artifact/manifest.json", "loader.py"} < set(names)
    assert "site/tvm/lib/libtvm_runtime.so" in names


def test_every_byte_of_every_file_counts(image: EnclaveImage, signer: Signer) -> None:
    """One flipped bit in a file, wherever, or a name changed: another measurement each time."""
    seen = {image.measurement}
    for index, file in enumerate(image.files):
        data = bytearray(file.read())
        data[len(data) // 2 : len(data) // 2 + 1] = bytes([data[len(data) // 2] ^ 1]) if data else b"x"
        changed = made(file.name, bytes(data))
        files = [*image.files[:index], changed, *image.files[index + 1 :]]
        seen.add(dataclasses.replace(image, files=tuple(files)).measurement)
        renamed = dataclasses.replace(file, name=file.name + "x")
        files = [*image.files[:index], renamed, *image.files[index + 1 :]]
        seen.add(dataclasses.replace(image, files=tuple(files)).measurement)
    assert len(seen) == 2 * len(image.files) + 1


@pytest.mark.parametrize("where", ["privlib/trusted/worker.py", "privlib/trusted/loader.py", "privlib/errors.py"])
def test_a_comment_in_the_sources_changes_the_measurement(
    image: EnclaveImage, signer: Signer, tmp_path: Path, where: str
) -> None:
    sources = clone(tmp_path)
    with open(sources / where, "a") as file:
        file.write("# a comment changes no bytecode\n")
    assert image_of(sources, image, signer).measurement != image.measurement


def test_the_configuration_is_measured_and_the_signers_word_is_not(
    image: EnclaveImage, inference_artifact: Path, signer: Signer
) -> None:
    other = build_image(inference_artifact, signer=signer, memory_bytes=(1 << 30) + 1)
    assert other.measurement != image.measurement and other.signature.mr_signer == image.signature.mr_signer
    again = build_image(inference_artifact, signer=Signer.generate(), product_id=7, svn=9, memory_bytes=1 << 30)
    assert again.measurement == image.measurement and again.signature.mr_signer != image.signature.mr_signer
    assert (again.signature.product_id, again.signature.svn) == (7, 9)


def test_a_signature_holds_for_what_was_signed_alone(image: EnclaveImage, signer: Signer) -> None:
    image.signature.verify(image.measurement)
    assert image.signature.mr_signer == hashlib.sha256(image.signature.modulus).digest()
    other, stranger = signer.sign(bytes(32), 1, 1), Signer.generate().sign(bytes(32), 1, 1)
    wrong = [
        (image.signature, bytes(32)),
        (dataclasses.replace(image.signature, svn=2), image.measurement),
        (dataclasses.replace(image.signature, product_id=2), image.measurement),
        (dataclasses.replace(image.signature, value=other.value), image.measurement),
        (dataclasses.replace(image.signature, modulus=stranger.modulus), image.measurement),
    ]
    for signature, measurement in wrong:
        with pytest.raises(ImageError, match="not its signer's"):
            signature.verify(measurement)


def test_a_file_changed_after_the_build_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "library.so"
    path.write_bytes(b"good")
    file = File("site/library.so", path, None, 4, hashlib.sha256(b"good").hexdigest())
    assert file.read() == b"good"
    path.write_bytes(b"evil")
    with pytest.raises(ImageError, match="no longer what the image was built from"):
        file.read()
    path.unlink()
    with pytest.raises(ImageError, match="cannot be read"):
        file.read()


def test_inside_code_that_imports_more_than_belongs_there_builds_no_image(tmp_path: Path) -> None:
    sources = clone(tmp_path)
    worker = sources / "privlib" / "trusted" / "worker.py"
    for name in ("torch", "scipy", "privlib.data"):
        shutil.copyfile(SOURCES / "privlib" / "trusted" / "worker.py", worker)
        worker.write_text(worker.read_text() + f"\nimport {name}\n")
        with pytest.raises(ImageError, match=f"No module named '{name}'"):
            runtime_files(sources)


@pytest.mark.parametrize("arguments", [{"memory_bytes": 0}, {"dataset_bytes": -1}, {"svn": 65536}, {"product_id": -1}])
def test_senseless_arguments_are_refused(inference_artifact: Path, signer: Signer, arguments: dict[str, int]) -> None:
    with pytest.raises(ImageError, match=next(iter(arguments))):
        build_image(inference_artifact, signer=signer, **arguments)


def test_a_damaged_artifact_builds_no_image(inference_artifact: Path, signer: Signer, tmp_path: Path) -> None:
    shutil.copytree(inference_artifact, tmp_path / "artifact")
    with open(tmp_path / "artifact" / "library.so", "r+b") as file:
        file.write(b"X")
    with pytest.raises(ArtifactError, match="SHA-256"):
        build_image(tmp_path / "artifact", signer=signer)


def test_a_signers_key_is_kept_and_is_of_the_kind_sgx_takes(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    assert Signer.of_this_user().pem() == Signer.of_this_user().pem()
    wrong = ((rsa.generate_private_key(65537, 2048), "RSA-3072"), (ec.generate_private_key(ec.SECP256R1()), "RSA"))
    for key, complaint in wrong:
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (tmp_path / "key.pem").write_bytes(pem)
        with pytest.raises(ImageError, match=complaint):
            Signer.load(tmp_path / "key.pem")
    (tmp_path / "key.pem").write_text("no key")
    with pytest.raises(ImageError, match="private key"):
        Signer.load(tmp_path / "key.pem")


def test_the_trusted_computing_base_is_a_small_part_of_pytorchs(image: EnclaveImage) -> None:
    inside = image.tcb
    counted = sum(file.size for file in image.files if ".so" in file.name or file.name.startswith("host/python"))
    assert inside.native_bytes == pytest.approx(counted, rel=1e-3)
    assert {"numpy", "tvm", "tvm_ffi", "privlib", "Python", "system", "artifact"} <= {c.name for c in inside.components}
    theirs = pytorch_tcb()
    assert inside.without_python().native_bytes < 80_000_000
    assert 4 * inside.native_bytes < theirs.native_bytes and 2 * inside.python_lines < theirs.python_lines
