"""cocotb: every NIST CAVP vector for AES-128-GCM with a 96-bit IV and a whole tag, keys loaded while data streams."""

from __future__ import annotations

from typing import Any

import cocotb

from tests.ginseng.rtl import gcm_vectors
from tests.ginseng.rtl.tec_driver import Driver


@cocotb.test()
async def encryption_vectors(dut: Any) -> None:
    """Ciphertext and tag are those of the file."""
    vectors = [vector for vector in gcm_vectors.encryption() if len(vector.tag) == 16]
    driver = Driver(dut)
    await driver.start()
    gcm_vectors.check_encryption(vectors, await driver.run_jobs(gcm_vectors.encryption_jobs(vectors)))
    dut._log.info("vectors=%d cycles=%d", len(vectors), driver.cycles)


@cocotb.test()
async def decryption_vectors(dut: Any) -> None:
    """Plaintext and verdict are those of the file."""
    vectors = [vector for vector in gcm_vectors.decryption() if len(vector.tag) == 16]
    driver = Driver(dut)
    await driver.start()
    assert gcm_vectors.check_decryption(vectors, await driver.run_jobs(gcm_vectors.decryption_jobs(vectors))) == []
    dut._log.info("vectors=%d cycles=%d", len(vectors), driver.cycles)
