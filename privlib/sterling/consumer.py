"""A consumer: writes a training contract, has it checked, pays, and receives a model that is certified."""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from privlib.enclave.policy import QuotePolicy
from privlib.enclave.release import Release, VerifiedRelease, verify_release
from privlib.errors import PrivlibError
from privlib.files import create_private
from privlib.sterling.chain import Account
from privlib.sterling.checks import program_verdict
from privlib.sterling.contract import TrainingContract
from privlib.sterling.contracts.terms import JobState, LogKind, Terms
from privlib.sterling.errors import JobRefused, OutputError
from privlib.sterling.executor import Bid
from privlib.sterling.market import Listing, LogEntry, Market
from privlib.sterling.provider import Provider
from privlib.sterling.request import JobRequest, recipient_hash
from privlib.sterling.verify import Verdict
from privlib.trusted import output as format
from privlib.trusted.credentials import present
from privlib.trusted.grant import Grant
from privlib.trusted.protocol import decode

GRANT_SECONDS, COMPLETE_SECONDS = 86400, 3 * 86400


@dataclass(frozen=True)
class Delivery:
    """What a consumer has in the end: the release with its certificate, verified; and the log's proofs that program,
    measurement and every dataset's policy were published."""

    release: Release
    verified: VerifiedRelease
    logged: tuple[LogEntry, ...]


class Consumer:
    """A consumer with its keys in a folder. account: who pays."""

    def __init__(self, market: Market, folder: Path | str, account: Account) -> None:
        self.market, self.account = market, account
        keys = {
            "identity": Ed25519PrivateKey.generate().private_bytes_raw().hex(),
            "recipient": X25519PrivateKey.generate().private_bytes_raw().hex(),
        }
        kept = json.loads(create_private(Path(folder) / "consumer.json", json.dumps(keys)))
        self._identity = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(kept["identity"]))
        self._recipient = X25519PrivateKey.from_private_bytes(bytes.fromhex(kept["recipient"]))

    @property
    def identity(self) -> bytes:
        """Whom credentials are issued to: Ed25519, 32 bytes."""
        return self._identity.public_key().public_bytes_raw()

    def check(self, contract: TrainingContract, listings: Sequence[Listing]) -> list[Verdict]:
        """What each provider's program check will say; nothing is sent anywhere."""
        built = contract.build()
        return [program_verdict(listing, built) for listing in listings]

    def request(
        self,
        contract: TrainingContract,
        listings: Sequence[Listing],
        bid: Bid,
        credentials: Sequence[str] = (),
        revocations: Sequence[str] = (),
        *,
        bonus: int = 0,
    ) -> JobRequest:
        """Ask for a job and lock its price on the chain. bonus: wei, split among the providers by appraisal (the
        contract must have an appraisal_noise then, and not otherwise).

        Raises JobRefused where the contract does not hold here already, ChainError.
        """
        market, built = self.market, contract.build()
        listings = sorted(listings, key=lambda listing: listing.number)
        refused = [str(verdict) for verdict in self.check(contract, listings) if not verdict.accepted]
        if refused:
            raise JobRefused(f"a provider's check would refuse the program: {refused[0]}")
        if bid.evidence.measurement != built.measurement:
            raise JobRefused("the executor bids with another enclave than the contract's")
        for kind, digest in ((LogKind.PROGRAM, built.program_digest), (LogKind.MEASUREMENT, built.measurement)):
            market.publish(kind, digest, self.account)
        consumer = self._recipient.public_key().public_bytes_raw().hex()
        terms = Terms(
            payer=self.account.address,
            executor=bid.executor,
            executor_basis_points=bid.basis_points,
            datasets=[listing.number for listing in listings],
            prices=[listing.price for listing in listings],
            bonus=bonus,
            program=built.program_digest,
            session=bid.session,
            evidence=bid.evidence,
            curve=built.curve(sum(listing.rows for listing in listings)),
            grant_by=market.now + GRANT_SECONDS,
            complete_by=market.now + COMPLETE_SECONDS,
            recipient=recipient_hash(consumer),
            salt=secrets.token_bytes(32),
        )
        escrow = market.contracts.escrow
        deposit = escrow.call("deposit_of", terms)
        market.final(escrow.transact, "request", terms, sender=self.account, value=deposit)
        grant = Grant(
            chain=market.chain.chain_id,
            escrow=market.escrow,
            job=bytes(escrow.call("job_of", terms)).hex(),
            consumer=consumer,
            datasets=tuple(listing.digest for listing in listings),
            numbers=tuple(listing.number for listing in listings),
            steps=contract.steps,
            sample_rate=contract.sample_rate,
            physical_batches=contract.physical_batches,
            appraisal_noise=contract.appraisal_noise,
        )
        presentation = present(self._identity, grant.encode())
        return JobRequest(contract, grant, tuple(credentials), tuple(revocations), self.identity, presentation)

    def receive(self, request: JobRequest, providers: Sequence[Provider], collateral: str | None = None) -> Delivery:
        """The model and its certificate, once the payment is final: any one provider's gate will do.

        collateral: as in `verify_release`. Raises JobError, NotFinal, StorageError, OutputError, AttestationError,
        ReleaseError.
        """
        market, grant = self.market, request.grant
        market.require(request.job, JobState.COMPLETED)
        events = market.contracts.escrow.events("Completed")
        completed = next(each for each in events if each["job"] == bytes.fromhex(request.job))
        file = market.store.get(completed["output"].hex())
        gate, dataset = self._gate(request, providers)
        try:
            text = format.open_output(file, completed["sealed_key"], grant, self._recipient, dataset, gate)
        except format.OutputError as error:
            raise OutputError(str(error)) from error
        image = request.contract.build().image
        release = Release(decode(text), collateral, image.manifest)
        policy = QuotePolicy(measurements=frozenset({image.measurement}), root=market.root)
        verified = verify_release(release.encode(), policy, collateral=collateral)
        if {claim.dataset for claim in verified.datasets} != set(grant.datasets):
            raise OutputError("the certificate names other datasets than the job")
        built, policies = request.contract.build(), {claim.terms.policy or "" for claim in verified.datasets}
        published = [(LogKind.PROGRAM, built.program_digest), (LogKind.MEASUREMENT, built.measurement)]
        published += [(LogKind.POLICY, bytes.fromhex(policy)) for policy in sorted(policies)]
        return Delivery(release, verified, tuple(market.logged(*each) for each in published))

    def _gate(self, request: JobRequest, providers: Sequence[Provider]) -> tuple[bytes, str]:
        """The first gate key that a provider gives, and its dataset."""
        refusals = []
        for provider in providers:
            try:
                sealed = provider.open_gate(request)
                return format.open_gate(sealed, request.grant, self._recipient), provider.listing.digest
            except PrivlibError as error:
                refusals.append(str(error))
        raise OutputError(f"no provider opens the gate: {'; '.join(refusals)}")
