"""cocotb: every NIST CAVP vector for AES-128-GCM with a 96-bit IV."""

from __future__ import annotations

from typing import Any

import cocotb

from tests.ginseng.rtl.gcm_vectors import load
from tests.ginseng.rtl.tec_driver import Driver, Job


@cocotb.test()
async def encryption_vectors(dut: Any) -> None:
    """Ciphertext and the (prefix of the) tag are those of the file."""
    vectors = list(load("gcmEncryptExtIV128.rsp"))
    assert len(vectors) == 2625 and sum(len(vector.tag) == 16 for vector in vectors) == 375
    driver = Driver(dut)
    await driver.start()
    jobs = [Job(v.key, v.iv, True, [v.aad], [v.plaintext or b""]) for v in vectors]
    results = await driver.run_jobs(jobs)
    assert len(results) == len(vectors)
    for vector, result in zip(vectors, results, strict=True):
        assert result.ok
        assert result.data == vector.ciphertext
        assert result.tag[: len(vector.tag)] == vector.tag
    dut._log.info("vectors=%d cycles=%d", len(results), driver.cycles)


@cocotb.test()
async def decryption_vectors(dut: Any) -> None:
    """Whole tags: plaintext and verdict. Shortened tags: refused by the core, judged here by the prefix."""
    vectors = list(load("gcmDecrypt128.rsp"))
    assert len(vectors) == 2625 and sum(len(vector.tag) == 16 for vector in vectors) == 375
    driver = Driver(dut)
    await driver.start()
    results = await driver.run_jobs([Job(v.key, v.iv, False, [v.aad], [v.ciphertext], v.tag) for v in vectors])
    assert len(results) == len(vectors)
    shortened = []
    for vector, result in zip(vectors, results, strict=True):
        assert result.tag == bytes(16), "the core must never show the tag it expected"
        if len(vector.tag) == 16:
            assert result.ok == (vector.plaintext is not None)
        else:
            assert not result.ok, "a shortened tag was accepted"
            shortened.append((vector, result.data))
        if vector.plaintext is not None:
            assert result.data == vector.plaintext
    again = await driver.run_jobs([Job(v.key, v.iv, True, [v.aad], [data]) for v, data in shortened])
    for (vector, _), result in zip(shortened, again, strict=True):
        assert result.ok and result.data == vector.ciphertext
        assert (result.tag[: len(vector.tag)] == vector.tag) == (vector.plaintext is not None)
    dut._log.info("vectors=%d cycles=%d", len(results) + len(again), driver.cycles)
