"""Providers of small datasets, as tests need them."""

import secrets
from pathlib import Path

import numpy as np

from privlib.enclave.datasets import encrypt_examples
from privlib.enclave.session import Session
from privlib.trusted.epoch import TrainRequest
from privlib.trusted.terms import Terms


def examples(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images float32 (count, 3, 32, 32) and labels int64 (count,)."""
    images = np.random.default_rng(seed).standard_normal((count, 3, 32, 32)).astype(np.float32)
    return images, np.arange(count, dtype=np.int64) % 10


class Provider:
    """A dataset at rest, and the key that only its provider has."""

    def __init__(self, path: Path, count: int, terms: Terms, seed: int = 0) -> None:
        self.key = secrets.token_bytes(32)
        self.dataset = encrypt_examples(path, *examples(count, seed), self.key, terms)

    @property
    def digest(self) -> str:
        return self.dataset.digest

    def release_to(self, session: Session) -> int:
        return session.provision(self.key, self.dataset)


def request(*providers: Provider, steps: int = 2, sample_rate: float = 0.16, batches: int = 6) -> TrainRequest:
    """An epoch on these providers' datasets, in samples that hardly ever are cut."""
    return TrainRequest(tuple(each.digest for each in providers), steps, sample_rate, batches)
