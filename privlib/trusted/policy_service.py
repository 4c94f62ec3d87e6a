"""A provider's confidential contract: its policy, executed in an enclave of its own, decides to whom the key goes.

After Ekiden (Cheng et al. 2019, arXiv 1804.05141): the state is sealed, each new one is committed on the chain, and
what came of it leaves only once the commitment is final there.

    commitment = SHA-256("privlib policy state v1" ‖ previous commitment ‖ SHA-256(sealed state) ‖ job ‖ result)

request   fields                                                  arrays                             answer
address                                                                                              result: address
install   dataset, number, terms, chain, escrow, states, instance,key, code                          state
          witnesses, threshold, issuers
open      head                                                    sealed                             result
challenge                                                                                            result: nonce
propose   grant, head, measurement, credentials, revocations,     public_key, nonce, subject,        state
          epsilon, price                                          presentation
confirm   head                                                                                       result
approval  job                                                                                        result: signature
release   job, granted                                                                               result: sealed
gate      job, completed                                                                             result: sealed

1. `propose`: the policy decides; `state` carries version, previous, commitment, output and the enclave's signature over
   them, with the sealed state, which the host stores before it commits.
2. `confirm`: once that is the final head on the chain. Of one committed state several successors may be proposed; the
   chain takes one of them, and `confirm` that one alone.
3. `approval`: the enclave's signature for the escrow, which charges the budget.
4. `release`: the job's wrapped key, once the job is granted, finally, and nothing it rests on is revoked. A key is
   wrapped once, for one offer of one enclave: an enclave that dies with it gives its job no second key.
5. `gate`: the key that the job's output is locked with, to its consumer, once the payment is final.

The enclave knows for itself: credentials, finality, and the policy's answer. That quote and program were verified, and
what the job costs, is the word of the provider, whose channel `install` and `propose` must come through.
"""

import hashlib
import hmac
import json
import secrets
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from privlib.errors import PrivlibError
from privlib.trusted import delivery, evm
from privlib.trusted.binding import NONCE_BYTES, encode
from privlib.trusted.credentials import verified_claims
from privlib.trusted.ethereum import EnclaveAccount, approval_digest, commitment_digest
from privlib.trusted.finality import COMPLETED, GRANTED, HEAD, NOTHING, Statement, Witnesses
from privlib.trusted.grant import Grant, bound_policy, statement_of
from privlib.trusted.output import gate_info
from privlib.trusted.platform import Platform
from privlib.trusted.policy_call import evaluation
from privlib.trusted.protocol import Message
from privlib.trusted.requests import Handlers, RequestError, array_of, bytes_in, dispatch, text_in
from privlib.trusted.sealing import digest as digest_of
from privlib.trusted.sealing import seal, unseal
from privlib.trusted.terms import Terms

PURPOSE = "train"
_LABEL = "privlib policy state"


class StateError(PrivlibError):
    """Base: the state of a confidential contract that is not the one the chain knows."""


class StateRollbackError(StateError):
    """An older state than the chain's, or one that the chain has never had."""


class StateForkError(StateError):
    """The chain went on from the committed state with another successor."""


class NotFinalError(StateError):
    """The new state's commitment is not final on the chain yet: nothing leaves before."""


class AlreadyGrantedError(StateError):
    """The job has its key, wrapped for one offer; there is no second one."""


def commitment(previous: str, sealed: bytes, job: str, result: str) -> str:
    """Of a new state, hexadecimal, as the chain keeps it. All but `sealed` are 32 bytes, hexadecimal."""
    parts = (bytes.fromhex(previous), digest_of(sealed), bytes.fromhex(job), bytes.fromhex(result))
    return hashlib.sha256(encode(b"privlib policy state v1", parts)).hexdigest()


class PolicyService:
    """State of an enclave that keeps one dataset's key."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._account = EnclaveAccount()  # until a state that has one is opened
        self._state: dict[str, Any] | None = None
        self._head = NOTHING
        self._proposed: dict[str, dict[str, Any]] = {}
        self._nonce = ""
        installed = {"dataset", "number", "terms", "chain", "escrow", "states", "instance", "witnesses", "threshold"}
        asked = {"grant", "head", "measurement", "credentials", "revocations", "epsilon", "price"}
        self._handlers: Handlers = {
            "address": (self._address, set(), set()),
            "install": (self._install, installed | {"issuers"}, {"key", "code"}),
            "open": (self._open, {"head"}, {"sealed"}),
            "challenge": (self._challenge, set(), set()),
            "propose": (self._propose, asked, {"public_key", "nonce", "subject", "presentation"}),
            "confirm": (self._confirm, {"head"}, set()),
            "approval": (self._approval, {"job"}, set()),
            "release": (self._release, {"job", "granted"}, set()),
            "gate": (self._gate, {"job", "completed"}, set()),
        }

    def answer(self, message: Message, client: bytes | None) -> Message:
        """client: the identity that the sender has proven, or None. Raises PrivlibError."""
        return dispatch(self._handlers, message, client)

    def _address(self, _: Message, __: bytes | None) -> Message:
        """The account that approves for the dataset and commits its states."""
        return Message("result", {"address": self._account.address})

    def _install(self, message: Message, client: bytes | None) -> Message:
        """Take a key and its policy into keeping; the answer's commitment is the chain's first."""
        if client is None or self._state is not None or self._proposed:
            raise RequestError("a provider installs once, through a channel of its own; launch another enclave")
        fields, terms = message.fields, Terms.decode(text_in(message, "terms").encode())
        code = bytes_in(message, "code")
        if terms.policy != hashlib.sha256(code).hexdigest() or terms.chain != fields["chain"]:
            raise RequestError("the terms that the data were encrypted under name another policy or chain")
        Witnesses(tuple(fields["witnesses"]), fields["threshold"])
        runtime, slots = evm.deploy(code)
        named = ("dataset", "number", "terms", "chain", "escrow", "states", "instance", "witnesses", "threshold")
        state = {
            **{name: fields[name] for name in named},
            "issuers": {str(key): [str(each) for each in names] for key, names in fields["issuers"].items()},
            "authority": client.hex(),
            "account": self._account.secret.hex(),
            "key": bytes_in(message, "key", delivery.KEY_BYTES).hex(),
            "gate": secrets.token_hex(32),
            "runtime": runtime.hex(),
            "slots": slots,
            "jobs": {},
            "version": 0,
            "last": [NOTHING, NOTHING],
        }
        return self._sealed(state)

    def _open(self, message: Message, _: bytes | None) -> Message:
        """Go on from a sealed state, if it is the chain's newest. Raises SealError, StateRollbackError."""
        sealed = bytes_in(message, "sealed")
        found = unseal(sealed, self._platform.sealing_keys(), _LABEL)
        state = _loaded(found.data)
        head = self._statement(state, text_in(message, "head"), what=HEAD, subject=state["instance"])
        if commitment(found.previous.hex(), sealed, *state["last"]) != head.value:
            raise StateRollbackError(
                f"the chain's newest state is {head.value[:16]}…, not this one: an older state, or one that the chain "
                "never had; bring the newest"
            )
        self._go_on(state, head.value)
        return Message("result", {"commitment": head.value})

    def _challenge(self, _: Message, __: bytes | None) -> Message:
        """A nonce for the next statement about the chain."""
        self._nonce = secrets.token_hex(NONCE_BYTES)
        return Message("result", {"nonce": self._nonce})

    def _propose(self, message: Message, client: bytes | None) -> Message:
        """Ask the policy for a job; what it decides is kept back until its commitment is final.

        Raises RequestError, AlreadyGrantedError, FinalityError, StateRollbackError, CredentialError, PolicyRefusal.
        """
        state = self._current()
        if client is None or client.hex() != state["authority"]:
            raise RequestError("only the provider says which quote and program were verified")
        text = text_in(message, "grant").encode()
        grant = Grant.decode(text)
        ours = (state["chain"], state["escrow"], (state["dataset"], state["number"]))
        if (grant.chain, grant.escrow) != ours[:2] or ours[2] not in zip(grant.datasets, grant.numbers, strict=True):
            raise RequestError("the grant is for another market, chain or dataset")
        if grant.job in state["jobs"]:
            raise AlreadyGrantedError("this job's key was wrapped, for one offer; a job gets no second key")
        head = self._statement(state, text_in(message, "head"), what=HEAD, subject=state["instance"])
        if head.value != self._head:
            raise StateRollbackError("the chain has a newer state than this enclave; open the newest")
        subject, fields = bytes_in(message, "subject", 32), message.fields
        presentation = bytes_in(message, "presentation", 64)
        claims = verified_claims(
            fields["credentials"], fields["revocations"], state["issuers"], subject, presentation, text, head.time
        )
        call = evaluation(grant.job, subject, claims, fields["epsilon"], fields["price"])
        _, slots = evm.execute(bytes.fromhex(state["runtime"]), state["slots"], call, head.time)
        sealed = self._wrapped(state, message, text, grant.job)
        granted = {"grant": text.decode(), "measurement": text_in(message, "measurement"), "sealed": sealed.hex()}
        last = [grant.job, hashlib.sha256(sealed).hexdigest()]
        jobs = state["jobs"] | {grant.job: granted}
        return self._sealed(state | {"slots": slots, "jobs": jobs, "version": state["version"] + 1, "last": last})

    def _wrapped(self, state: dict[str, Any], message: Message, grant: bytes, job: str) -> bytes:
        """The dataset's key and the job's gate key, sealed to an enclave's offer."""
        keys = bytes.fromhex(state["key"]) + _gate_key(state, job)
        measurement, dataset = bytes.fromhex(text_in(message, "measurement")), bytes.fromhex(state["dataset"])
        bound = bound_policy(state["terms"].encode(), grant)
        context = delivery.info(measurement, PURPOSE, bytes_in(message, "nonce", NONCE_BYTES), dataset, bound)
        offer = X25519PublicKey.from_public_bytes(bytes_in(message, "public_key", 32))
        return delivery.MAGIC + delivery.SUITE.encrypt(keys, offer, context)

    def _confirm(self, message: Message, _: bytes | None) -> Message:
        """Go on to the proposed state that the chain has taken. Raises NotFinalError, StateForkError."""
        known = self._state or next(iter(self._proposed.values()), None)
        if known is None:
            raise RequestError("nothing was proposed; install or open first")
        head = self._statement(known, text_in(message, "head"), what=HEAD, subject=known["instance"])
        if head.value == self._head:
            raise NotFinalError("the chain has not taken the new state yet; commit it, and wait until that is final")
        if head.value not in self._proposed:
            raise StateForkError("the chain went on with a state that this enclave did not propose; open that one")
        self._go_on(self._proposed[head.value], head.value)
        return Message("result", {"commitment": head.value})

    def _approval(self, message: Message, _: bytes | None) -> Message:
        """The signature that approves a job for this dataset, once the state that decided so is final."""
        state = self._current()
        grant = self._granted(text_in(message, "job"))
        statement = statement_of(grant.encode())
        digest = approval_digest(state["chain"], state["escrow"], grant.job, state["number"], statement)
        return Message("result", arrays={"signature": array_of(self._account.sign(digest))})

    def _release(self, message: Message, _: bytes | None) -> Message:
        """A job's wrapped key. May be asked for again: it is the same one. Raises FinalityError, NotFinalError."""
        state, grant = self._current(), self._granted(text_in(message, "job"))
        job = state["jobs"][grant.job]
        expected = {"what": GRANTED, "subject": grant.job, "value": job["measurement"]}
        self._statement(state, text_in(message, "granted"), **expected)
        return Message("result", arrays={"sealed": array_of(bytes.fromhex(job["sealed"]))})

    def _gate(self, message: Message, _: bytes | None) -> Message:
        """A finished job's gate key, for its consumer alone. Raises FinalityError before the payment is final."""
        state, grant = self._current(), self._granted(text_in(message, "job"))
        self._statement(state, text_in(message, "completed"), what=COMPLETED, subject=grant.job)
        consumer = X25519PublicKey.from_public_bytes(bytes.fromhex(grant.consumer))
        sealed = delivery.SUITE.encrypt(_gate_key(state, grant.job), consumer, gate_info(grant))
        return Message("result", arrays={"sealed": array_of(sealed)})

    def _current(self) -> dict[str, Any]:
        if self._state is None:
            raise NotFinalError("no state is open; install and confirm, or open the newest")
        return self._state

    def _granted(self, job: str) -> Grant:
        found = self._current()["jobs"].get(job)
        if found is None:
            raise NotFinalError("no final state grants this job; propose it, commit, confirm")
        return Grant.decode(found["grant"].encode())

    def _statement(self, state: dict[str, Any], text: str, **expected: object) -> Statement:
        """A fresh statement of the state's witnesses: it has the last challenge's nonce, which serves once."""
        if not self._nonce:
            raise RequestError("ask for a challenge first: statements about the chain must be fresh")
        nonce, self._nonce = self._nonce, ""
        witnesses = Witnesses(tuple(state["witnesses"]), state["threshold"])
        common = {"chain": state["chain"], "escrow": state["escrow"], "nonce": nonce}
        return witnesses.require(text.encode(), **common, **expected)

    def _go_on(self, state: dict[str, Any], head: str) -> None:
        self._state, self._head, self._proposed = state, head, {}
        self._account = EnclaveAccount(bytes.fromhex(state["account"]))

    def _sealed(self, state: dict[str, Any]) -> Message:
        """Keep a successor of the current state, and give it out sealed. Nothing acts upon it yet."""
        data = json.dumps(state, sort_keys=True).encode()
        keys, version = self._platform.sealing_keys(), state["version"]
        sealed = seal(data, keys, _LABEL, "measurement", version, bytes.fromhex(self._head))
        new, output = commitment(self._head, sealed, *state["last"]), state["last"][1]
        chain = state["chain"], state["states"], state["instance"]
        signature = self._account.sign(commitment_digest(*chain, version, self._head, new, output))
        self._proposed[new] = state
        fields = {"version": version, "previous": self._head, "commitment": new, "output": output}
        return Message("state", fields, {"sealed": array_of(sealed), "signature": array_of(signature)})


def _gate_key(state: dict[str, Any], job: str) -> bytes:
    return hmac.digest(bytes.fromhex(state["gate"]), bytes.fromhex(job), "sha256")


def _loaded(data: bytes) -> dict[str, Any]:
    """A state as this enclave sealed it: JSON has no numbers as names."""
    state: dict[str, Any] = json.loads(data)
    return state | {"slots": {int(slot): value for slot, value in state["slots"].items()}}
