"""A provider's confidential contract, seen from its host: the policy enclave, its states on disk, their commitments on
the chain.

A state is stored under its commitment's name before it is committed, so that whatever the chain's newest one is lies on
disk.
"""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privlib.enclave.state import StateStore
from privlib.files import atomic_path
from privlib.sterling.chain import Account
from privlib.sterling.checks import micro_epsilon
from privlib.sterling.confidential import PolicyEnclave
from privlib.sterling.errors import NotFinal, PolicyStateError
from privlib.sterling.market import Market
from privlib.sterling.recover import recoverable
from privlib.sterling.request import JobRequest
from privlib.trusted.ethereum import commitment_digest
from privlib.trusted.finality import HEAD
from privlib.trusted.protocol import Message


class Keeper:
    """account: who sends the commitments; authority: the provider's key towards the policy enclave. instance: the
    contract's identity on the chain, hexadecimal; set before anything is stated of its states."""

    def __init__(self, market: Market, folder: Path, account: Account, authority: Ed25519PrivateKey) -> None:
        self._market, self._folder, self._account, self._authority = market, folder, account, authority
        self._enclave: PolicyEnclave | None = None
        self.instance = ""

    @property
    def enclave(self) -> PolicyEnclave:
        """The policy enclave, launched where none runs; `open` gives one that knows its state."""
        if self._enclave is None or not self._enclave.alive:
            self.close()
            self._enclave = PolicyEnclave(self._authority, StateStore(self._folder / "enclave"), self._market.root)
        return self._enclave

    def open(self, instance: str) -> PolicyEnclave:
        """The policy enclave, at the chain's newest final state. Raises PolicyStateError, NotFinal, LaunchError."""
        if self._enclave is not None and self._enclave.alive:
            return self._enclave
        self.instance = instance
        self._market.settle()
        head = bytes(self._market.contracts.states.call("heads", bytes.fromhex(instance), at="final")[3]).hex()
        try:
            sealed = (self._folder / "states" / f"{head}.sealed").read_bytes()
        except FileNotFoundError as error:
            raise PolicyStateError(f"the chain's newest state {head[:16]}… is not on disk; bring a copy") from error
        try:
            self.enclave.ask("open", {"head": self.statement(HEAD, instance)}, sealed=sealed)
        except BaseException:
            self.close()
            raise
        return self.enclave

    def statement(self, what: str, subject: str) -> str:
        """A fresh statement of the witness for the enclave. Raises NotFinal where it is not so."""
        return self._market.witness.statement(what, subject, self.enclave.challenge()).decode()

    def propose(
        self, request: JobRequest, measurement: bytes, epsilon: float, price: int, public_key: bytes, nonce: bytes
    ) -> Message:
        """Have the policy decide on a job whose enclave, of that measurement, offered `public_key` for `nonce`; the new
        state is stored. Raises PolicyRefused, CredentialRefused, AlreadyGranted, StateRolledBack."""
        fields = {
            "grant": request.grant.encode().decode(),
            "head": self.statement(HEAD, self.instance),
            "measurement": measurement.hex(),
            "credentials": list(request.credentials),
            "revocations": list(request.revocations),
            "epsilon": micro_epsilon(epsilon),
            "price": str(price),
        }
        presented = {"subject": request.subject, "presentation": request.presentation}
        state = self.enclave.ask("propose", fields, public_key=public_key, nonce=nonce, **presented)
        self.store(state)
        return state

    def store(self, state: Message) -> None:
        """Keep a sealed state by its commitment."""
        self.write(f"states/{state.fields['commitment']}.sealed", state.arrays["sealed"].tobytes())

    def commit(self, state: Message) -> None:
        """Send a new state's commitment, which the enclave has signed, and wait until it is final.

        Raises SterlingError where the chain went on from another state.
        """
        chain, states, fields = self._market.chain, self._market.contracts.states, state.fields
        version, *hashes = (fields[name] for name in ("version", "previous", "commitment", "output"))
        digest = commitment_digest(chain.chain_id, states.address[2:], self.instance, version, *hashes)
        instance = bytes.fromhex(self.instance)
        signature = recoverable(state.arrays["signature"].tobytes(), digest, states.call("heads", instance)[1])
        sent = (instance, version, *map(bytes.fromhex, hashes), signature)
        self._market.final(states.transact, "commit", *sent, sender=self._account)

    def confirm(self) -> None:
        """Tell the enclave that its new state is final. Raises NotFinal, StateForked."""
        self.enclave.ask("confirm", {"head": self.statement(HEAD, self.instance)})

    def approval(self, job: str) -> bytes | None:
        """The enclave's signature that approves a job, or None where no final state grants it."""
        try:
            return self.enclave.ask("approval", {"job": job}).arrays["signature"].tobytes()
        except NotFinal:
            return None

    def write(self, name: str, data: bytes) -> None:
        """A file of the provider's folder, whole or not at all."""
        with atomic_path(self._folder / name) as temporary:
            temporary.write_bytes(data)

    def close(self) -> None:
        """End the enclave; it is launched again when it is needed."""
        if self._enclave is not None:
            self._enclave.close()
            self._enclave = None
