"""The talk's Sterling as a story: three hospitals that would never show each other their images train one classifier.

Sterling's demonstration (PVLDB 11(12), 2018) had three credit agencies ("TransUnion, Equifax, Experian"); here it is
hospitals with parts of CIFAR-10. A university writes the training contract, a cloud runs it. The four steps:

1 upload    each hospital encrypts its part, its policy and key go into an enclave, terms and budget onto the chain
2 contract  the university writes a training contract and has it checked at home
3 request   it locks the price on the chain, with its credentials
4 release   each hospital checks, charges its budget and releases its key to the attested enclave; model against payment
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from privlib import models
from privlib.compiler import DPSGD, SGD
from privlib.data import Cifar10, preprocess
from privlib.sterling.chain import EmbeddedChain
from privlib.sterling.chain.base import ETHER, Chain
from privlib.sterling.confidential import Rules
from privlib.sterling.consumer import Consumer, Delivery
from privlib.sterling.contract import TrainingContract
from privlib.sterling.contracts.terms import JobState
from privlib.sterling.executor import Bid, Executor
from privlib.sterling.gas import MeteredChain
from privlib.sterling.market import Market
from privlib.sterling.provider import Offer, Provider
from privlib.sterling.request import JobRequest
from privlib.trusted.credentials import Issuer

HOSPITALS = ("north", "river", "hill")
CLAIMS = {"purpose": "research", "identity_class": "university"}
SECONDS_IN_A_YEAR = 365 * 86400
PRICE = ETHER
"""Wei that each hospital asks for a job."""
SEED = 20181


@dataclass(frozen=True)
class Plan:
    """How large a story is. images: of each hospital (the last one's labels are drawn at random: its records are bad,
    and what that does to its pay is part of the story); small: a two-layer network on 8×8 pixels instead of the small
    convolutional one on 32×32."""

    images: tuple[int, int, int]
    steps: int
    expected_batch: int
    batch_size: int
    physical_batches: int
    noise_multiplier: float = 1.2
    appraisal_noise: float = 2.5
    small: bool = True

    def model(self) -> nn.Module:
        """With the same initial weights every time."""
        torch.manual_seed(SEED)
        if self.small:
            return nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.Tanh(), nn.Linear(32, 10))
        return models.build("small_cnn")

    def contract(self) -> TrainingContract:
        """What the university asks for."""
        return TrainingContract.of(
            self.model(),
            self.batch_size,
            (3, 8, 8) if self.small else (3, 32, 32),
            optimizer=SGD(0.3, momentum=0.9),
            privacy=DPSGD(self.noise_multiplier, 1.0, self.expected_batch),
            steps=self.steps,
            sample_rate=self.expected_batch / sum(self.images),
            physical_batches=self.physical_batches,
            appraisal_noise=self.appraisal_noise,
        )

    def prepared(self, images: np.ndarray) -> np.ndarray:
        """uint8 (n, 32, 32, 3) as the network takes them, float32 (n, 3, side, side)."""
        found = preprocess(np.array(images))
        if not self.small:
            return found
        return functional.avg_pool2d(torch.from_numpy(found), 4).numpy()

    def shares(self, data: Cifar10) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Each hospital's (images, labels int64): consecutive parts of `data`."""
        random, found, start = np.random.default_rng(SEED), {}, 0
        for name, count in zip(HOSPITALS, self.images, strict=True):
            part = slice(start, start + count)
            labels = np.array(data.labels[part], dtype=np.int64)
            if name == HOSPITALS[-1]:
                labels = random.integers(0, 10, count, dtype=np.int64)
            found[name] = (self.prepared(data.images[part]), labels)
            start += count
        return found


PLANS = {
    "smoke": Plan((80, 40, 40), 2, 32, 16, 8),
    "quick": Plan((3000, 1500, 1500), 30, 256, 64, 7),
    "full": Plan((12_000, 6000, 6000), 100, 512, 64, 12, small=False),
}


@dataclass(frozen=True)
class Moment:
    """The ledger after something. locked: wei in the escrow that no one may take yet; spent: ε of each hospital's
    budget; owed: wei that each party may withdraw."""

    after: str
    block: int
    job: str
    locked: int
    spent: Mapping[str, float]
    owed: Mapping[str, int]


class Story:
    """A market with three hospitals, a university, and a cloud. Context manager: leaving it ends their enclaves.

    epsilon: each hospital's budget at δ = 1e-5, of which one job may take all. moments: the ledger after each step;
    seconds: what each step took.
    """

    def __init__(self, folder: Path | str, plan: Plan, chain: Chain | None = None, epsilon: float = 8.0) -> None:
        folder = Path(folder)
        self.plan, self.chain = plan, MeteredChain(chain or EmbeddedChain())
        self.moments: list[Moment] = []
        self.seconds: dict[str, float] = {}
        self.market = Market.open(folder / "market", self.chain)
        self.issuer, account = Issuer(), self.chain.account
        self.hospitals = {name: Provider(self.market, folder / name, account(name)) for name in HOSPITALS}
        self.university = Consumer(self.market, folder / "university", account("university"))
        self.cloud = Executor(self.market, folder / "cloud", account("cloud"))
        self._offer = Offer(
            epsilon=epsilon, price=PRICE, rules=Rules(purposes=("research",), classes=("university",)),
            job_epsilon=epsilon, issuers={self.issuer.public_key.hex(): tuple(CLAIMS)},
        )  # fmt: skip

    @cached_property
    def contract(self) -> TrainingContract:
        """Step 2's."""
        return self.plan.contract()

    def upload(self, data: Cifar10) -> None:
        """Step 1, by every hospital."""
        for name, (images, labels) in self.plan.shares(data).items():
            with self._timed("upload"):
                self.hospitals[name].offer(images, labels, self._offer)
        self._moment("1 upload")

    def bid(self) -> Bid:
        """The cloud launches the contract's enclave, and has its quote checked by the chain."""
        with self._timed("build"):
            self.contract.build()
        with self._timed("bid"):
            return self.cloud.bid(self.contract)

    def request(self, bid: Bid, bonus: int = ETHER, hospitals: Sequence[str] = HOSPITALS) -> JobRequest:
        """Step 3: the university pays for a job on the data of these hospitals. bonus: wei, split by appraisal."""
        now, subject = self.market.now, self.university.identity
        credential = self.issuer.issue(subject, CLAIMS, now - 10, now + SECONDS_IN_A_YEAR)
        revocations = self.issuer.revocations(now - 10, now + SECONDS_IN_A_YEAR)
        listings = [self.hospitals[name].listing for name in hospitals]
        with self._timed("request"):
            request = self.university.request(self.contract, listings, bid, [credential], [revocations], bonus=bonus)
        self._moment("3 request", request)
        return request

    def release(self, request: JobRequest) -> Delivery:
        """Step 4: checks and charges, keys, training, payment, model."""
        parties = [each for each in self.hospitals.values() if each.listing.digest in request.grant.datasets]
        for hospital in parties:
            with self._timed("approve"):
                hospital.approve(request, self.cloud)
        self._moment("4 approved by all", request)
        for hospital in parties:
            with self._timed("deliver"):
                hospital.deliver(request, self.cloud)
        self._moment("4 keys released", request)
        with self._timed("train"):
            self.cloud.run(request)
        self._moment("4 trained and paid", request)
        with self._timed("receive"):
            return self.university.receive(request, parties, self.cloud.collateral)

    def silence(self, request: JobRequest) -> tuple[int, int]:
        """Nobody acts on a requested job, time passes, and a passer-by ends it: (wei deposited, wei that the university
        gets back)."""
        market, account = self.market, self.university.account
        market.withdraw(account)
        deposit = int(market.contracts.escrow.call("deposit_of", market.terms(request.job)))
        market.chain.advance(2 * 86400)
        market.expire(request.job, market.chain.account("passer-by"))
        self._moment("silence, then expired", request)
        return deposit, market.withdraw(account)

    def exposed(self, data: Cifar10, samples: int = 8) -> int:
        """How many of `samples` images of each hospital can be read in storage or in any transaction so far."""
        places = [path.read_bytes() for path in sorted((self.market.store.folder / "chunks").iterdir())]
        places += [use.data for use in self.chain.uses]
        pieces = [
            image.tobytes()[: image.nbytes // 2][-256:]
            for images, _ in self.plan.shares(data).values()
            for image in images[:: max(1, len(images) // samples)][:samples]
        ]
        return sum(any(piece in place for place in places) for piece in pieces)

    def owed(self) -> dict[str, int]:
        """Wei that each party may withdraw from the escrow."""
        parties = {name: each.account for name, each in self.hospitals.items()}
        parties |= {"university": self.university.account, "cloud": self.cloud.account}
        return {name: int(self.market.contracts.escrow.call("credit", each.address)) for name, each in parties.items()}

    def accuracy(self, delivery: Delivery, test: Cifar10) -> tuple[int, int]:
        """How many of `test`'s images the delivered model gets right, and how many there are."""
        model = self.plan.model()
        model.load_state_dict({name: torch.from_numpy(np.array(v)) for name, v in delivery.release.parameters.items()})
        with torch.no_grad():
            found = model.eval()(torch.from_numpy(self.plan.prepared(test.images))).argmax(1).numpy()
        return int((found == test.labels).sum()), len(found)

    def close(self) -> None:
        """End the enclaves; the chain is its maker's to close."""
        for hospital in self.hospitals.values():
            hospital.close()
        self.cloud.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - start

    def _moment(self, after: str, request: JobRequest | None = None) -> None:
        owed, state = self.owed(), self.market.state(request.job) if request else JobState.UNKNOWN
        held = self.chain.balance(self.market.contracts.escrow.address) - sum(owed.values())
        spent = {name: each.spent() for name, each in self.hospitals.items()}
        job = state.name.lower() if request else "none yet"
        self.moments.append(Moment(after, self.chain.head().number, job, held, spent, owed))
