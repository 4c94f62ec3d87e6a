"""The device's parts in this process: packages read strictly, the monitor's say over memory, keys and fuses."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from privlib.errors import PrivlibError
from privlib.ginseng.device import package, secure_os, service
from privlib.ginseng.device.errors import MonitorRefusal, PackageError
from privlib.ginseng.device.hardware import VERSIONS, Fuses
from privlib.ginseng.device.secure_os import ENCLAVE, GuardedDram, SecureOs
from privlib.ginseng.errors import ProtectionError
from privlib.ginseng.int8 import QuantisedModel, round_to_int8
from privlib.ginseng.memory.encrypted import TaggedDram
from privlib.ginseng.vta.network import Network, Parameters
from privlib.ginseng.vta.program import VtaProgram
from privlib.trusted.sealing import RollbackError, SealError
from privlib.trusted.storage import DatasetError

KEY = b"k" * 32
SIGNER, MEASUREMENT, BOOT = b"s" * 32, b"m" * 32, b"b" * 32


def with_parameters(program: VtaProgram, parameters: Parameters) -> VtaProgram:
    network: Network = program.network
    exponents = {"input": 4, network.output: 3}
    quantised = QuantisedModel(network, parameters, exponents)
    return VtaProgram(network, program.config, program.layers, program.regions, quantised)


@pytest.fixture(scope="module")
def files(tiny: VtaProgram, tiny_parameters: Parameters) -> dict[str, bytes]:
    return package.pack(with_parameters(tiny, tiny_parameters))


def test_a_package_reads_as_what_was_packed(
    files: dict[str, bytes], tiny: VtaProgram, tiny_parameters: Parameters
) -> None:
    found = package.read(files)
    assert found.program.network == tiny.network and found.program.config == tiny.config
    assert found.program.regions == tiny.regions
    assert [layer.instructions for layer in found.program.layers] == [layer.instructions for layer in tiny.layers]
    for mine, theirs in zip(found.program.layers, tiny.layers, strict=True):
        np.testing.assert_array_equal(mine.uops, theirs.uops)
    assert found.constants == tiny.image(tiny_parameters)
    assert (found.input_exponent, found.output_exponent) == (4, 3)


def test_an_encrypted_model_opens_with_its_key_and_its_program_alone(
    files: dict[str, bytes], tiny: VtaProgram, tiny_parameters: Parameters
) -> None:
    sealed = package.pack(with_parameters(tiny, tiny_parameters), KEY)
    found = package.read(sealed)
    model = {name: data for name, data in tiny.image(tiny_parameters).items() if name.endswith((":bias", ":weights"))}
    assert not model.keys() & found.constants.keys()
    assert found.open_parameters(KEY) == model
    with pytest.raises(DatasetError):
        found.open_parameters(b"x" * 32)
    said = json.loads(sealed[package.DESCRIPTION])
    said["exponents"][1] += 1
    with pytest.raises(DatasetError):
        package.read({**sealed, package.DESCRIPTION: json.dumps(said).encode()}).open_parameters(KEY)


def changed(files: dict[str, bytes], **values: object) -> dict[str, bytes]:
    said = json.loads(files[package.DESCRIPTION])
    return {**files, package.DESCRIPTION: json.dumps({**said, **values}).encode()}


def test_what_does_not_fit_is_refused_by_name(files: dict[str, bytes]) -> None:
    said = json.loads(files[package.DESCRIPTION])
    regions, blocks = said["regions"], said["blocks"]
    overlapping = [regions[0], [regions[1][0], regions[1][1], 0, regions[1][3]], *regions[2:]]
    name = next(name for name, each in blocks.items() if len(each[0]) > 2)
    repeated = {**blocks, name: [blocks[name][0], [0] * (len(blocks[name][0]) - 1)]}
    cut = {**blocks, name: [blocks[name][0][:-1], []]}
    first = said["layers"][0]
    for wrong, complaint in (
        (changed(files, format=2), "format 2"),
        (changed(files, regions=overlapping), "another one's place"),
        (changed(files, regions=regions[1:]), "no region for tensor|another one's|bytes, its regions"),
        (changed(files, regions=[*regions, regions[-1]]), "one name|another one's"),
        (changed(files, blocks=repeated), "nonce could repeat"),
        (changed(files, blocks=cut), "do not cover"),
        (changed(files, blocks={}), "malformed"),
        (changed(files, layers=[["Recurrent", first[1]]]), "malformed"),
        (changed(files, layers=[first, first]), "two tensors are called"),
        (changed(files, config={**said["config"], "block": -16}), "whole number"),
        (changed(files, exponents=[1]), "malformed"),
        ({**files, package.STREAMS: files[package.STREAMS][:-1]}, "its regions"),
        ({**files, package.DESCRIPTION: b"[" * 100_000}, "malformed"),
        ({**files, package.SEALED: b""}, "sealed or not"),
    ):
        with pytest.raises(PackageError, match=complaint):
            package.read(wrong)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_altered_package_does_more_than_be_refused(files: dict[str, bytes], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(files)))
    at = data.draw(st.integers(0, len(files[name]) - 1))
    value = data.draw(st.integers(0, 255))
    wrong = {**files, name: files[name][:at] + bytes([value]) + files[name][at + 1 :]}
    try:
        found = package.read(wrong)
    except PackageError:
        return
    assert SecureOs(found, BOOT).measurement != SecureOs(package.read(files), BOOT).measurement or wrong == files


def guarded(files: dict[str, bytes]) -> tuple[SecureOs, GuardedDram, package.Package]:
    found = package.read(files)
    booted = SecureOs(found, BOOT)
    booted.load_key(KEY[:16])
    memory = TaggedDram(found.program, KEY[:16], found.partition, partial_writes=False)
    for region in found.program.regions.values():
        memory.begin(region)
    return booted, GuardedDram(booted, memory), found


def test_a_tensor_is_written_only_while_the_enclave_runs_under_the_monitors_version(files: dict[str, bytes]) -> None:
    booted, memory, found = guarded(files)
    region = found.program.regions["a"]
    with pytest.raises(MonitorRefusal, match="the region is the caller's"):
        memory.begin(region)
    with booted.running():
        memory.begin(region)
        memory.begin(region)
        assert memory.memory.version(region) == booted.monitor.state["version"][region.number] == 3
        memory.memory.begin(region)
        with pytest.raises(ProtectionError, match="the memory's another"):
            memory.begin(region)


def test_the_host_neither_reads_nor_writes_what_the_enclave_owns(files: dict[str, bytes]) -> None:
    booted, _, found = guarded(files)
    for call, arguments in (("peek", {}), ("poke", {"value": 1}), ("store", {}), ("reclaim", {})):
        for region in (0, found.program.regions["a"].number):
            assert booted.monitor.call(call, region=region, **arguments).refused is not None
    assert booted.monitor.call("poke", region=booted.mailbox, value=5).refused is None
    with pytest.raises(MonitorRefusal, match="no key yet"):
        booted.load_key(KEY[:16])


def test_a_destroyed_enclave_keeps_nothing(files: dict[str, bytes]) -> None:
    booted, memory, found = guarded(files)
    booted.destroy()
    state = booted.monitor.state
    assert state["key"][ENCLAVE] == 0 and not any(state["content"].values()) and not any(state["owner"].values())
    with pytest.raises(MonitorRefusal, match="the enclave is ready"), booted.running():
        memory.begin(found.program.regions["a"])
    with pytest.raises(MonitorRefusal):
        booted.attested_measurement(bytes(64))


def test_the_measurement_names_device_and_program(files: dict[str, bytes]) -> None:
    found = package.read(files)
    same, other = SecureOs(found, BOOT), SecureOs(found, b"c" * 32)
    assert same.measurement == SecureOs(found, BOOT).measurement != other.measurement
    assert same.attested_measurement(b"r" * 64) == same.measurement


def test_the_device_is_made_of_exactly_the_modules_it_loads() -> None:
    code = (
        "import sys, privlib.ginseng.device.worker\n"
        "found = [m for n, m in sys.modules.items() if n.split('.')[0] == 'privlib']\n"
        "print('\\n'.join(m.__file__ for m in found))\n"
        "assert not {'torch', 'tvm', 'tvm_ffi'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = {Path(line).read_bytes() for line in done.stdout.split("\n") if line}
    files = {name: data for name, data in secure_os.own_files().items() if not name.startswith("bitstream/")}
    # The process's own module is `__main__` in a device; here it is imported like the others.
    assert loaded == set(files.values()) and len(files) > 40
    assert secure_os.boot_digest(files) != secure_os.boot_digest({**files, "common/files.py": b""})


def test_numbers_come_in_and_go_out_as_in_the_reference(tiny: VtaProgram, tiny_parameters: Parameters) -> None:
    values = np.random.default_rng(0).normal(0, 5, 2000).astype(np.float32)
    values[:3] = (0.5, -0.5, 1e9)
    quantised = QuantisedModel(tiny.network, tiny_parameters, {"input": 4, tiny.network.output: 3})
    for exponent in (-2, 0, 4):
        reference = round_to_int8(torch.from_numpy(values), exponent).to(torch.int8).numpy()
        np.testing.assert_array_equal(service.quantised(values, exponent), reference)
    integers = np.arange(-128, 128).astype(np.int8)
    np.testing.assert_array_equal(service.real(integers, 3), quantised.dequantise(integers))


def test_keys_belong_to_one_device_one_firmware_one_image(tmp_path: Path) -> None:
    fuses = Fuses(tmp_path)
    first = fuses.keys(BOOT, MEASUREMENT, SIGNER, 1, 1, False)
    again = Fuses(tmp_path).keys(BOOT, MEASUREMENT, SIGNER, 1, 1, False)
    assert first.sealing == again.sealing and first.memory != again.memory
    assert first.root.attestation_key.private_numbers() == again.root.attestation_key.private_numbers()
    firmware = fuses.keys(b"c" * 32, MEASUREMENT, SIGNER, 1, 1, False)
    device = Fuses(tmp_path / "other").keys(BOOT, MEASUREMENT, SIGNER, 1, 1, False)
    for other in (firmware, device):
        assert other.sealing.measurement_key != first.sealing.measurement_key
        assert other.root.attestation_key.private_numbers() != first.root.attestation_key.private_numbers()
    for arguments in ((b"n" * 32, SIGNER, 1, 1, False), (MEASUREMENT, SIGNER, 1, 1, True)):
        assert fuses.keys(BOOT, *arguments).sealing.measurement_key != first.sealing.measurement_key
    assert KEY.hex() not in repr(first) and "sealing" not in repr(first)


def test_versions_never_go_back_and_damage_is_named(tmp_path: Path) -> None:
    fuses = Fuses(tmp_path)
    for svn in (1, 1, 4):
        fuses.advance(SIGNER, 1, svn)
    fuses.advance(SIGNER, 2, 1)
    fuses.advance(b"t" * 32, 1, 1)
    for svn in (0, 3):
        with pytest.raises(RollbackError, match=f"version {svn} of product 1, and version 4"):
            fuses.advance(SIGNER, 1, svn)
    for damage in ("", "[]", '{"' + SIGNER.hex() + '/1": "x"}'):
        (tmp_path / VERSIONS).write_text(damage)
        with pytest.raises(SealError, match="damaged"):
            fuses.advance(SIGNER, 1, 9)
    assert issubclass(SealError, PrivlibError)
