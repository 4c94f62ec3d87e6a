"""cocotb: NIST CAVP vectors for AES-128-GCM with a 96-bit IV and a whole tag, keys loaded while data streams: one of
each class, or every one (PRIVLIB_ALL_VECTORS=1)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import cocotb

from tests.ginseng.rtl import gcm_vectors
from tests.ginseng.rtl.tec_driver import Driver


def chosen(vectors: Sequence[gcm_vectors.Vector]) -> list[gcm_vectors.Vector]:
    """Those with whole tags, or one of each class of them."""
    whole = [vector for vector in vectors if len(vector.tag) == 16]
    return whole if os.environ.get("PRIVLIB_ALL_VECTORS") == "1" else gcm_vectors.sample(whole)


@cocotb.test()
async def encryption_vectors(dut: Any) -> None:
    """Ciphertext and tag are those of the file."""
    vectors = chosen(gcm_vectors.encryption())
    driver = Driver(dut)
    await driver.start()
    gcm_vectors.check_encryption(vectors, await driver.run_jobs(gcm_vectors.encryption_jobs(vectors)))
    dut._log.info("vectors=%d cycles=%d", len(vectors), driver.cycles)


@cocotb.test()
async def decryption_vectors(dut: Any) -> None:
    """Plaintext and verdict are those of the file."""
    vectors = chosen(gcm_vectors.decryption())
    driver = Driver(dut)
    await driver.start()
    assert gcm_vectors.check_decryption(vectors, await driver.run_jobs(gcm_vectors.decryption_jobs(vectors))) == []
    dut._log.info("vectors=%d cycles=%d", len(vectors), driver.cycles)
