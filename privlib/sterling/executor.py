"""The executor: runs the enclave of a job, on a machine that nobody has to trust.

It sees ciphertext, the job's shape and its times. What it can do wrong ends in a refund: it may die, be silent, or
answer garbage, which no session signs for.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from privlib.enclave.image import EnclaveImage
from privlib.enclave.launcher import Enclave, launch
from privlib.enclave.platforms.base import Platform
from privlib.enclave.policy import QuotePolicy
from privlib.enclave.session import Session
from privlib.enclave.state import StateStore
from privlib.files import atomic_path
from privlib.sterling.chain import Account
from privlib.sterling.contract import TrainingContract
from privlib.sterling.contracts.quotes import registry_quote
from privlib.sterling.contracts.terms import MOST, Evidence, JobState
from privlib.sterling.errors import JobError
from privlib.sterling.market import Listing, Market, Progress
from privlib.sterling.recover import recoverable
from privlib.sterling.request import JobRequest
from privlib.trusted.ethereum import completion_digest
from privlib.trusted.protocol import Message


@dataclass(frozen=True)
class Bid:
    """An executor's offer to run a contract. session: the enclave's account; evidence: what its quote said on the
    chain; basis_points: the fee, in 1/10,000 of prices and bonus."""

    executor: str
    basis_points: int
    session: str
    evidence: Evidence


class Executor:
    """An executor with a folder for what it must not lose. account: who is paid. Context manager: leaving it ends its
    enclave, and with it every job that has no result yet."""

    def __init__(
        self,
        market: Market,
        folder: Path | str,
        account: Account,
        platform: str | Platform = "simulated",
        basis_points: int = 500,
    ) -> None:
        self.market, self.account, self.basis_points = market, account, basis_points
        self._folder, self._platform = Path(folder), platform
        self._enclave: Enclave | None = None

    @property
    def enclave(self) -> Enclave:
        """The one that runs. Raises JobError."""
        if self._enclave is None or not self._enclave.alive:
            raise JobError("the executor runs no enclave; a job that had begun in one can only expire")
        return self._enclave

    @property
    def collateral(self) -> str | None:
        """What its quotes are verified with."""
        return self.enclave.collateral

    def bid(self, contract: TrainingContract) -> Bid:
        """Launch a contract's enclave and register its session on the chain: its quote is checked there, once.

        Raises JobRefused, LaunchError, AttestationError, ChainError.
        """
        market = self.market
        self.close()
        self._enclave = launch(contract.build().image, self._platform, state=StateStore(self._folder / "state"))
        registry = market.contracts.attestation
        asked = {"chain": market.chain.chain_id, "registry": registry.address[2:].lower()}
        with self.enclave.connect(None) as session:
            answer = session.request(Message("session", asked))
        quote, address = registry_quote(answer.arrays["quote"].tobytes()), "0x" + str(answer.fields["address"])
        receipt = market.final(registry.transact, "register", quote, address, sender=self.account)
        (event,) = registry.events_of(receipt, "SessionRegistered")
        return Bid(self.account.address, self.basis_points, event["session"], Evidence(*event["evidence"]))

    def connect(self, image: EnclaveImage) -> Session:
        """An attested session with its enclave, which must be of that image. Raises AttestationError, JobError."""
        policy = QuotePolicy(measurements=frozenset({image.measurement}), root=self.market.root)
        return self.enclave.connect(policy)

    def provision(self, request: JobRequest, listing: Listing, public_key: bytes, sealed: bytes) -> int:
        """Hand the enclave a wrapped key, and the ciphertext from storage; returns the dataset's number of examples.

        Raises StorageError where a chunk is lost, RequestRefused.
        """
        with self.enclave.connect(None) as session:
            inside = session.status()["rows"]
        if listing.digest in inside:  # this enclave's offer was used, and whoever asked did not live to hear so
            return int(inside[listing.digest])
        path = self._folder / "datasets" / listing.digest
        self.market.store.save(listing.digest, path)
        self.enclave.offer_file(listing.digest, path)
        fields = {
            "dataset": listing.digest,
            "terms": listing.terms.decode(),
            "grant": request.grant.encode().decode(),
        }
        arrays = {"public_key": np.frombuffer(public_key, np.uint8), "sealed": np.frombuffer(sealed, np.uint8)}
        with self.enclave.connect(None) as session:
            return int(session.request(Message("provision", fields, arrays)).fields["rows"])

    def has_result(self, request: JobRequest) -> bool:
        """Whether the job's output and signature lie on disk: then it needs its enclave no more, only `run`."""
        return self._record(request).exists()

    def run(self, request: JobRequest, progress: Progress = lambda step: None) -> None:
        """Train, store the output, and complete the job on the chain. After a crash that left the output on disk it is
        completed; one that did not has lost the job, which expires. Called again, it stores the output again.

        Raises JobError, RequestRefused, EnclaveDied, ChainError.
        """
        if self.market.require(request.job, JobState.GRANTED, JobState.COMPLETED) is JobState.COMPLETED:
            self.market.settle()
            if self.has_result(request):
                self.market.store.put(self._output(request))
            return
        record = self._record(request)
        if not record.exists():
            with self.enclave.connect(None) as session:
                answer = session.request(Message("job", {"job": request.job}))
            file = answer.arrays["file"].tobytes()
            output = hashlib.sha256(file).hexdigest()
            with atomic_path(self._output(request)) as temporary:
                temporary.write_bytes(file)
            kept = {
                "output": output,
                "weights": answer.fields["weights"],
                "sealed_key": answer.arrays["sealed_key"].tobytes().hex(),
                "signature": answer.arrays["signature"].tobytes().hex(),
            }
            with atomic_path(record) as temporary:
                temporary.write_text(json.dumps(kept))
            progress("trained")
        self.market.store.put(self._output(request))
        self._complete(request, json.loads(record.read_text()))
        progress("completed")

    def _record(self, request: JobRequest) -> Path:
        return self._folder / "results" / f"{request.job}.json"

    def _output(self, request: JobRequest) -> Path:
        return self._folder / "results" / f"{request.job}.output"

    def _complete(self, request: JobRequest, kept: dict[str, Any]) -> None:
        """Send what the enclave has signed; anybody could."""
        market, weights = self.market, [*kept["weights"], *[0] * (MOST - len(kept["weights"]))]
        output, sealed_key, signature = (bytes.fromhex(kept[name]) for name in ("output", "sealed_key", "signature"))
        terms = market.terms(request.job)
        digest = completion_digest(market.chain.chain_id, market.escrow, request.job, output, sealed_key, weights)
        signed = recoverable(signature, digest, terms.session)
        complete = market.contracts.escrow.transact
        market.final(complete, "complete", terms, output, sealed_key, weights, signed, sender=self.account)

    def close(self) -> None:
        """End the enclave."""
        if self._enclave is not None:
            self._enclave.close()
            self._enclave = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
