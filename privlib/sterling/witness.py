"""Who tells enclaves what is final on the chain: SIMULATES a light client (see `privlib.trusted.finality`)."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privlib.sterling.chain import Chain
from privlib.sterling.contracts.market import MarketContracts
from privlib.sterling.contracts.terms import JobState, Terms
from privlib.sterling.errors import NotFinal
from privlib.trusted.finality import COMPLETED, GRANTED, HEAD, Statement, signed_statement


def terms_of(contracts: MarketContracts, job: bytes) -> Terms:
    """A job's terms, from its request. Raises NotFinal where the chain has none."""
    for event in contracts.escrow.events("Requested"):
        if event["job"] == job:
            return Terms.decoded(event["terms"])
    raise NotFinal(f"the chain has no request of job {job.hex()[:16]}…")


class FinalityWitness:
    """Reads the final blocks, and signs what they say. key: Ed25519, None for a new one."""

    def __init__(self, chain: Chain, contracts: MarketContracts, key: Ed25519PrivateKey | None = None) -> None:
        self._chain, self._contracts = chain, contracts
        self._key = key or Ed25519PrivateKey.generate()

    @property
    def public_key(self) -> str:
        """Ed25519, hexadecimal."""
        return self._key.public_key().public_bytes_raw().hex()

    def statement(self, what: str, subject: str, nonce: str) -> bytes:
        """A signed statement. Raises NotFinal where it is not so in the final blocks."""
        find = {HEAD: self._head, GRANTED: self._granted, COMPLETED: self._completed}[what]
        value, block = find(bytes.fromhex(subject)), self._chain.final()
        escrow = self._contracts.escrow.address[2:].lower()
        number, time = block.number, block.timestamp
        said = Statement(self._chain.chain_id, escrow, what, subject, value.hex(), nonce, number, time)
        return signed_statement(said, [said.sign(self._key)])

    def _head(self, instance: bytes) -> bytes:
        _, key, _, state = self._contracts.states.call("heads", instance, at="final")
        if int(key, 16) == 0:
            raise NotFinal("no such confidential contract is final on the chain")
        return bytes(state)

    def _granted(self, job: bytes) -> bytes:
        """The measurement that keys may go to; refused as soon as anything the job rests on is revoked."""
        if self._contracts.escrow.call("state", job, at="final") != JobState.GRANTED:
            raise NotFinal(f"job {job.hex()[:16]}… is not granted in a final block")
        terms = terms_of(self._contracts, job)
        revoked = any(self._contracts.registry.call("revoked", number) for number in terms.datasets if number)
        session = (terms.session, terms.evidence, terms.complete_by)
        if revoked or not self._contracts.attestation.call("valid", *session):
            raise NotFinal(f"job {job.hex()[:16]}… rests on what was revoked: no key moves for it")
        return terms.evidence.measurement

    def _completed(self, job: bytes) -> bytes:
        for event in self._contracts.escrow.events("Completed", at="final"):
            if event["job"] == job:
                return bytes(event["output"])
        raise NotFinal(f"job {job.hex()[:16]}… is not paid in a final block")
