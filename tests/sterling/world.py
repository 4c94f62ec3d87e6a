"""A market with its parties, as tests need it: small data, a small model, one contract compiled for the session."""

import os
import signal
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from privlib.compiler import DPSGD, SGD
from privlib.sterling import (
    Consumer,
    Executor,
    Issuer,
    JobRequest,
    Market,
    Offer,
    Provider,
    Rules,
    TrainingContract,
)
from privlib.sterling.chain import Chain
from privlib.sterling.executor import Bid

ETHER = 10**18
SHAPE = (3, 8, 8)
CLAIMS = {"purpose": "research", "identity_class": "hospital"}
YEAR = 365 * 86400


def examples(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    images = np.random.default_rng(seed).standard_normal((count, *SHAPE)).astype(np.float32)
    return images, np.arange(count, dtype=np.int64) % 10


@cache
def contract(noise_multiplier: float = 2.0, appraisal_noise: float = 0.0, steps: int = 2) -> TrainingContract:
    """The one that the tests use; compiled once a session."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.Tanh(), nn.Linear(16, 10))
    return TrainingContract.of(
        model, 8, SHAPE, optimizer=SGD(0.1), privacy=DPSGD(noise_multiplier, 1.0, 16), steps=steps, sample_rate=0.2,
        physical_batches=8, appraisal_noise=appraisal_noise,
    )  # fmt: skip


class World:
    """providers, consumer, executor: made anew from their folders by `restart`, after `kill` has ended their enclaves
    with SIGKILL. issuer: whom the providers trust."""

    def __init__(
        self,
        folder: Path,
        chain: Chain | None = None,
        providers: int = 1,
        epsilon: float = 50.0,
        rules: Rules | None = None,
        price: int = ETHER,
    ) -> None:
        self.folder, self.issuer = folder, Issuer()
        self.market = Market.open(folder / "market", chain)
        named = [f"provider {number}" for number in range(providers)]
        self._accounts = {name: self.market.chain.account(name) for name in (*named, "consumer", "executor")}
        self._named = named
        self.restart()
        trusted = {self.issuer.public_key.hex(): tuple(CLAIMS)}
        offer = Offer(epsilon=epsilon, price=price, rules=rules or Rules(), issuers=trusted)
        for number, provider in enumerate(self.providers):
            provider.offer(*examples(40, number), offer)

    def restart(self) -> None:
        self.providers = [Provider(self.market, self.folder / name, self._accounts[name]) for name in self._named]
        self.consumer = Consumer(self.market, self.folder / "consumer", self._accounts["consumer"])
        self.executor = Executor(self.market, self.folder / "executor", self._accounts["executor"])

    def restart_providers(self) -> None:
        """They die, with their enclaves, and come back."""
        for number, provider in enumerate(self.providers):
            kill(provider.keeper._enclave and provider.keeper._enclave._enclave)
            name = self._named[number]
            self.providers[number] = Provider(self.market, self.folder / name, self._accounts[name])

    def kill(self) -> None:
        """Everybody dies at once, by SIGKILL where there is a process; and comes back with what lies on disk."""
        kill(self.executor._enclave)
        self.restart_providers()
        self.restart()

    def credentials(self, consumer: Consumer | None = None, **claims: str) -> tuple[list[str], list[str]]:
        now = self.market.now
        subject = (consumer or self.consumer).identity
        credential = self.issuer.issue(subject, CLAIMS | claims, now - 10, now + YEAR)
        return [credential], [self.issuer.revocations(now - 10, now + YEAR)]

    def request(
        self,
        asked: TrainingContract | None = None,
        consumer: Consumer | None = None,
        bonus: int = 0,
        bid: Bid | None = None,
        **claims: str,
    ) -> JobRequest:
        """A job on all datasets, in a fresh enclave; or with a bid that stands, where none will train."""
        asked, who = asked or contract(), consumer or self.consumer
        listings = [provider.listing for provider in self.providers]
        self.bid = bid or self.executor.bid(asked)
        return who.request(asked, listings, self.bid, *self.credentials(who, **claims), bonus=bonus)

    def approve(self, request: JobRequest) -> None:
        for provider in self.providers:
            provider.approve(request, self.executor)

    def deliver(self, request: JobRequest) -> None:
        for provider in self.providers:
            provider.deliver(request, self.executor)

    def complete(self, request: JobRequest) -> None:
        """Everything up to the payment, or from wherever it stands."""
        if not self.executor.has_result(request):
            self.approve(request)
            self.deliver(request)
        self.executor.run(request)

    def expire(self, request: JobRequest) -> None:
        """Nobody acts any more; time passes, and a stranger ends the job."""
        self.market.chain.advance(5 * 86400)
        self.market.expire(request.job, self.market.chain.account("stranger"))

    def charged(self) -> list[int]:
        """What the chain has charged each dataset at the first order, in its units."""
        ledger = self.market.contracts.ledger
        return [ledger.call("total", provider.listing.number)[0] & (2**64 - 1) for provider in self.providers]

    def refunded(self, request: JobRequest) -> bool:
        """Whether the payer is owed its whole deposit."""
        deposit = self.market.contracts.escrow.call("deposit_of", self.market.terms(request.job))
        return bool(self.market.contracts.escrow.call("credit", self.consumer.account.address) == deposit)

    def close(self) -> None:
        self.executor.close()
        for provider in self.providers:
            provider.close()


def kill(enclave: Any) -> None:
    """End an enclave's process as a crash would."""
    if enclave is None:
        return
    os.kill(enclave._process.pid, signal.SIGKILL)  # of the simulated platform
    enclave.close()


def outputs(world: World, known: Sequence[str] = ()) -> list[str]:
    """Files in storage that are no dataset."""
    datasets = {provider.listing.digest for provider in world.providers}
    files = world.market.store.folder / "files"
    return [path.name for path in files.iterdir() if path.name not in datasets | set(known)]
