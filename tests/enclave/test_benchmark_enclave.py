"""`privlib bench enclave`: its smoke record."""

from pathlib import Path

import pytest

from benchmarks import enclave
from privlib.suite import bench

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.soak  # compiles, launches a dozen enclaves
def test_the_smoke_record_is_whole(tmp_path: Path) -> None:
    data = bench.run(ROOT, "enclave", "smoke", results=tmp_path).data
    assert data["status"] == "ok", data["reason"]
    found = {metric["name"]: metric for metric in data["metrics"]}
    assert {name.split("/")[0] for name in found} == {*enclave.ROWS, "storage"}
    for row, peer in (("vgg9", "privlib_private_enclave"), ("mobilenet32", "privlib_enclave")):
        assert found[f"{row}/{peer}/throughput_over_outside"]["value"] > 0
        assert found[f"{row}/{peer}/mapped_code_bytes"]["value"] < 80_000_000
        listed = [each["value"] for name, each in found.items() if name.startswith(f"{row}/mapped_")]
        assert len(listed) > 10 and sum(listed) <= found[f"{row}/{peer}/mapped_code_bytes"]["value"] + 10_000_000
    assert found["mobilenet224/privlib_enclave/launch_to_first_answer"]["unit"] == "s"
    assert found["vgg9/privlib_private_enclave/verification_by_another_process"]["value"] > 0
    modelled = [each for name, each in found.items() if name.startswith("vgg9/sgx_epoch")]
    assert len(modelled) == 8 and {each["kind"] for each in modelled} == {"modelled"}
    assert data["enclave"] is not None or "enclave" in data
