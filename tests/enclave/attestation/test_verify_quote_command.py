"""`privlib verify-quote`: readable claims, TCB status and advisories first of all; non-zero on refusal."""

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from privlib.enclave.simulated_root import SimulatedRoot
from privlib.suite import cli
from tests.enclave.attestation.conftest import MEASUREMENT, NOW, REPORT_DATA, SIGNER, VECTORS, Evidence


def verify(name: str, time: int | None, *more: str) -> int:
    when = [] if time is None else ["--time", str(time)]
    files = [str(VECTORS / f"{name}_quote"), "--collateral", str(VECTORS / f"{name}_quote_collateral.json")]
    return cli.main(["verify-quote", *files, *when, *more])


def lines(text: str) -> dict[str, str]:
    return {line[:14].strip(): line[14:] for line in text.splitlines()}


def test_the_tdx_quote_is_accepted_at_its_time(tdx: Evidence, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify("tdx", tdx.now) == 0
    said = lines(capsys.readouterr().out)
    assert said["verdict"] == "accepted"
    assert said["TCB status"].startswith("UpToDate") and said["advisories"] == "none"
    assert said["trust anchor"] == "Intel SGX Root CA"
    assert said["measurement"].endswith("(not compared)")


def test_the_sgx_quote_is_refused_with_status_and_advisories_until_its_status_is_accepted(
    sgx: Evidence, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify("sgx", sgx.now) == 1
    refused = capsys.readouterr()
    said = lines(refused.out)
    assert said["verdict"] == "REFUSED"
    assert said["TCB status"].startswith("ConfigurationAndSWHardeningNeeded")
    assert said["advisories"] == "INTEL-SA-00289, INTEL-SA-00615"
    assert "name the status to accept it" in refused.err
    assert verify("sgx", sgx.now, "--accept-status", "ConfigurationAndSWHardeningNeeded") == 0
    accepted = lines(capsys.readouterr().out)
    assert accepted["verdict"] == "accepted" and accepted["advisories"] == said["advisories"]


@pytest.mark.parametrize("name", ["sgx", "tdx"])
def test_today_both_are_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(name, None, "--accept-status", "ConfigurationAndSWHardeningNeeded") == 1
    said = capsys.readouterr()
    assert said.out == "" and "Expired" in said.err and "fetch new collateral" in said.err


def test_a_simulated_quote_under_its_root_says_that_no_hardware_vouches(
    tmp_path: Path, simulated: Evidence, simulated_root: SimulatedRoot, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "quote.hex").write_text(simulated.quote.hex() + "\n")
    (tmp_path / "collateral.json").write_text(simulated.collateral)
    root = x509.load_der_x509_certificate(simulated_root.certificate)
    (tmp_path / "root.pem").write_bytes(root.public_bytes(Encoding.PEM))
    (tmp_path / "root.der").write_bytes(simulated_root.certificate)
    arguments = ["verify-quote", str(tmp_path / "quote.hex"), "--collateral", str(tmp_path / "collateral.json"),
                 "--time", str(NOW), "--measurement", MEASUREMENT.hex(), "--signer", SIGNER.hex(), "--product", "7",
                 "--minimum-svn", "3", "--report-data", REPORT_DATA.hex(),
                 "--platform", simulated_root.platform.ppid.hex()]  # fmt: skip
    for file in ("root.pem", "root.der"):
        assert cli.main([*arguments, "--root", str(tmp_path / file)]) == 0
        said = lines(capsys.readouterr().out)
        assert "SIMULATED root, NOT INTEL" in said["trust anchor"] and "no hardware vouches" in said["trust anchor"]
        assert "not compared" not in "".join(said.values())
    assert cli.main(arguments) == 1  # Intel's root
    assert cli.main([*arguments[:-1], "00" * 16, "--root", str(tmp_path / "root.der")]) == 1
    assert "not on the policy's list" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["/nowhere"], [str(VECTORS / "README.md")], [str(VECTORS / "sgx_quote"), "--collateral", "/nowhere"],
     [str(VECTORS / "sgx_quote"), "--measurement", "xyz"], [str(VECTORS / "sgx_quote"), "--measurement", "00"],
     [str(VECTORS / "sgx_quote"), "--accept-status", "Revoked"],
     [str(VECTORS / "sgx_quote"), "--root", str(VECTORS / "README.md")]],
)  # fmt: skip
def test_files_and_options_that_make_no_sense_exit_with_1(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["verify-quote", *arguments]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("privlib: ") and said.out == ""
