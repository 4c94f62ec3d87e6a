"""The market as it should behave, in plain Python: who may do what when, where the money is, what is charged.

Written from the life cycle of the design and not from the contracts, so that one does not repeat the other's mistakes.
"""

from dataclasses import dataclass, field
from enum import Enum

CURVE_ORDERS = 16


class Stage(Enum):
    REQUESTED = 1
    GRANTED = 2
    COMPLETED = 3
    FAILED = 4
    EXPIRED = 5


RUNNING = (Stage.REQUESTED, Stage.GRANTED)


@dataclass
class Job:
    payer: str
    datasets: tuple[int, ...]
    prices: tuple[int, ...]
    bonus: int
    fee: int
    grant_by: int
    complete_by: int
    stage: Stage = Stage.REQUESTED
    approved: set[int] = field(default_factory=set)

    @property
    def deposit(self) -> int:
        return sum(self.prices) + self.bonus + self.fee


@dataclass
class Dataset:
    owner: str
    price: int
    caps: tuple[int, ...]
    charged: list[int] = field(default_factory=lambda: [0] * CURVE_ORDERS)
    touched: list[int] = field(default_factory=lambda: [0] * CURVE_ORDERS)  # by jobs that were granted
    revoked: bool = False


@dataclass
class Model:
    """Everything that the chain should know. Every method answers whether the action is allowed, and does it if so."""

    datasets: dict[int, Dataset]
    curve: tuple[int, ...]
    executor: str
    jobs: list[Job] = field(default_factory=list)
    credit: dict[str, int] = field(default_factory=dict)
    received: dict[str, int] = field(default_factory=dict)
    session_revoked: bool = False

    def request(self, job: Job, now: int) -> bool:
        if self.session_revoked or any(self.datasets[each].revoked for each in job.datasets) or now > job.grant_by:
            return False
        self.jobs.append(job)
        return True

    def approve(self, number: int, dataset: int, who: str, now: int) -> bool:
        job = self.jobs[number]
        if job.stage != Stage.REQUESTED or dataset not in job.datasets or dataset in job.approved or now > job.grant_by:
            return False
        offer = self.datasets[dataset]
        if who != offer.owner or offer.revoked or self.session_revoked:
            return False
        total = [a + b for a, b in zip(offer.charged, self.curve, strict=True)]
        if not any(a <= cap for a, cap in zip(total, offer.caps, strict=True)):
            return False
        last = len(job.approved) + 1 == len(job.datasets)
        if last and any(self.datasets[each].revoked for each in job.datasets):
            return False
        offer.charged = total
        job.approved.add(dataset)
        if last:
            job.stage = Stage.GRANTED
            for each in job.datasets:
                found = self.datasets[each]
                found.touched = [a + b for a, b in zip(found.touched, self.curve, strict=True)]
        return True

    def complete(self, number: int, weights: tuple[int, ...], signed: bool, now: int) -> bool:
        job = self.jobs[number]
        if job.stage != Stage.GRANTED or not signed or now > job.complete_by or self._broken(job):
            return False
        if (sum(weights) == 0) != (job.bonus == 0):
            return False
        job.stage = Stage.COMPLETED
        left = job.bonus
        shares = [job.bonus * each // sum(weights) if left else 0 for each in weights]
        left -= sum(shares)
        for position, each in enumerate(weights):
            if each and left:
                shares[position] += 1
                left -= 1
        for dataset, price, share in zip(job.datasets, job.prices, shares, strict=True):
            self._owe(self.datasets[dataset].owner, price + share)
        self._owe(self.executor, job.fee)
        return True

    def fail(self, number: int, who: str) -> bool:
        job = self.jobs[number]
        withdrawn = who == job.payer and job.stage == Stage.REQUESTED
        if job.stage not in RUNNING or not (who == self.executor or withdrawn or self._broken(job)):
            return False
        self._refund(job, Stage.FAILED)
        return True

    def expire(self, number: int, now: int) -> bool:
        job = self.jobs[number]
        if job.stage not in RUNNING or now <= (job.grant_by if job.stage == Stage.REQUESTED else job.complete_by):
            return False
        self._refund(job, Stage.EXPIRED)
        return True

    def withdraw(self, who: str) -> bool:
        owed = self.credit.pop(who, 0)
        self.received[who] = self.received.get(who, 0) + owed
        return owed > 0

    def locked(self) -> int:
        """Wei that the escrow should hold."""
        return sum(self.credit.values()) + sum(job.deposit for job in self.jobs if job.stage in RUNNING)

    def _broken(self, job: Job) -> bool:
        return self.session_revoked or any(self.datasets[each].revoked for each in job.datasets)

    def _refund(self, job: Job, stage: Stage) -> None:
        if job.stage == Stage.REQUESTED:
            for each in job.approved:
                offer = self.datasets[each]
                offer.charged = [a - b for a, b in zip(offer.charged, self.curve, strict=True)]
        job.stage = stage
        self._owe(job.payer, job.deposit)

    def _owe(self, who: str, wei: int) -> None:
        if wei:
            self.credit[who] = self.credit.get(who, 0) + wei
