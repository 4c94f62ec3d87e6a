"""A provider's confidential contract: its policy, executed in an enclave of its own, decides to whom the key goes.

After Ekiden (Cheng et al. 2019, arXiv 1804.05141): the state is sealed, each new one is committed on the chain, and
what came of it leaves only once the commitment is final there.

    commitment = SHA-256("privlib policy state v1" ‖ previous commitment ‖ SHA-256(sealed state) ‖ job ‖ result)

request   fields                                                     arrays                             answer
install   dataset, terms, chain, market, witnesses, threshold,       key, code                          state
          issuers
open      head                                                       sealed                             result
challenge                                                                                               result: nonce
propose   grant, head, debited, measurement, credentials,            public_key, nonce, subject,        state
          revocations, epsilon, price                                presentation
confirm   head                                                                                          result
release   job                                                                                           result: sealed
gate      job, completed                                                                                result: sealed

`state` carries previous and commitment, and the sealed state, for the host to store before it commits. Of the same
committed state a host may have several successors proposed; the chain takes one of them, and `confirm` that one alone.
The enclave knows for itself: credentials, budget's debit, finality, and the policy's answer. That quote and program
were verified is the word of the provider, whose channel `install` and `propose` must come through.

A job's key is wrapped once, for one offer of one enclave: an enclave that dies with it gives its job no second key.
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
from privlib.trusted.finality import COMPLETED, DEBITED, HEAD, NOTHING, Statement, Witnesses
from privlib.trusted.grant import Grant, bound_policy
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
        self._state: dict[str, Any] | None = None
        self._head = NOTHING
        self._proposed: dict[str, dict[str, Any]] = {}
        self._nonce = ""
        self._handlers: Handlers = {
            "install": (
                self._install,
                {"dataset", "terms", "chain", "market", "witnesses", "threshold", "issuers"}, {"key", "code"},
            ),
            "open": (self._open, {"head"}, {"sealed"}),
            "challenge": (self._challenge, set(), set()),
            "propose": (
                self._propose,
                {"grant", "head", "debited", "measurement", "credentials", "revocations", "epsilon", "price"},
                {"public_key", "nonce", "subject", "presentation"},
            ),
            "confirm": (self._confirm, {"head"}, set()),
            "release": (self._release, {"job"}, set()),
            "gate": (self._gate, {"job", "completed"}, set()),
        }  # fmt: skip

    def answer(self, message: Message, client: bytes | None) -> Message:
        """client: the identity that the sender has proven, or None. Raises PrivlibError."""
        return dispatch(self._handlers, message, client)

    def _install(self, message: Message, client: bytes | None) -> Message:
        """Take a key and its policy into keeping; the chain's first commitment is the answer's."""
        if client is None or self._state is not None:
            raise RequestError("a provider installs once, through a channel of its own; launch another enclave")
        fields, terms = message.fields, Terms.decode(text_in(message, "terms").encode())
        code = bytes_in(message, "code")
        if terms.policy != hashlib.sha256(code).hexdigest() or terms.chain != fields["chain"]:
            raise RequestError("the terms that the data were encrypted under name another policy or chain")
        Witnesses(tuple(fields["witnesses"]), fields["threshold"])
        runtime, slots = evm.deploy(code)
        state = {
            "authority": client.hex(),
            "dataset": text_in(message, "dataset"),
            "terms": terms.encode().decode(),
            "key": bytes_in(message, "key", delivery.KEY_BYTES).hex(),
            "gate": secrets.token_hex(32),
            "chain": fields["chain"],
            "market": text_in(message, "market"),
            "witnesses": list(fields["witnesses"]),
            "threshold": fields["threshold"],
            "issuers": {str(key): [str(each) for each in names] for key, names in fields["issuers"].items()},
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
        head = self._statement(state, text_in(message, "head"), what=HEAD, dataset=state["dataset"], nonce=self._used())
        if commitment(found.previous.hex(), sealed, *state["last"]) != head.value:
            raise StateRollbackError(
                f"the chain's newest state is {head.value[:16]}…, not this one: an older state, or one that the chain "
                "never had; bring the newest"
            )
        self._state, self._head, self._proposed = state, head.value, {}
        return Message("result", {"commitment": head.value})

    def _challenge(self, _: Message, __: bytes | None) -> Message:
        """A nonce for the next statement about the head."""
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
        if (grant.chain, grant.market) != (state["chain"], state["market"]) or state["dataset"] not in grant.datasets:
            raise RequestError("the grant is for another market, chain or dataset")
        if grant.job in state["jobs"]:
            raise AlreadyGrantedError("this job's key was wrapped, for one offer; a job gets no second key")
        head = self._statement(state, text_in(message, "head"), what=HEAD, dataset=state["dataset"], nonce=self._used())
        if head.value != self._head:
            raise StateRollbackError("the chain has a newer state than this enclave; open the newest")
        measurement = text_in(message, "measurement")
        self._statement(
            state, text_in(message, "debited"),
            what=DEBITED, dataset=state["dataset"], job=grant.job, value=measurement,
        )  # fmt: skip
        subject = bytes_in(message, "subject", 32)
        claims = verified_claims(
            message.fields["credentials"], message.fields["revocations"], state["issuers"], subject,
            bytes_in(message, "presentation", 64), text, head.time,
        )  # fmt: skip
        call = evaluation(grant.job, subject, claims, message.fields["epsilon"], message.fields["price"])
        _, slots = evm.execute(bytes.fromhex(state["runtime"]), state["slots"], call, head.time)
        public_key, nonce = bytes_in(message, "public_key", 32), bytes_in(message, "nonce", NONCE_BYTES)
        keys = bytes.fromhex(state["key"]) + _gate_key(state, grant.job)
        context = delivery.info(
            bytes.fromhex(measurement), PURPOSE, nonce, bytes.fromhex(state["dataset"]),
            bound_policy(state["terms"].encode(), text),
        )  # fmt: skip
        sealed = delivery.MAGIC + delivery.SUITE.encrypt(keys, X25519PublicKey.from_public_bytes(public_key), context)
        jobs = state["jobs"] | {grant.job: {"grant": text.decode(), "sealed": sealed.hex()}}
        result = hashlib.sha256(sealed).hexdigest()
        return self._sealed(
            state | {"slots": slots, "jobs": jobs, "version": state["version"] + 1, "last": [grant.job, result]}
        )

    def _confirm(self, message: Message, _: bytes | None) -> Message:
        """Go on to the proposed state that the chain has taken. Raises NotFinalError, StateForkError."""
        any_state = self._state or next(iter(self._proposed.values()), None)
        if any_state is None:
            raise RequestError("nothing was proposed; install or open first")
        head = self._statement(
            any_state, text_in(message, "head"), what=HEAD, dataset=any_state["dataset"], nonce=self._used()
        )
        if head.value == self._head:
            raise NotFinalError("the chain has not taken the new state yet; commit it, and wait until that is final")
        if head.value not in self._proposed:
            raise StateForkError("the chain went on with a state that this enclave did not propose; open that one")
        self._state, self._head, self._proposed = self._proposed[head.value], head.value, {}
        return Message("result", {"commitment": head.value})

    def _release(self, message: Message, _: bytes | None) -> Message:
        """A job's wrapped key, once the state that granted it is final. May be asked for again: it is the same one."""
        found = self._current()["jobs"].get(text_in(message, "job"))
        if found is None:
            raise NotFinalError("no final state grants this job; propose it, commit, confirm")
        return Message("result", arrays={"sealed": array_of(bytes.fromhex(found["sealed"]))})

    def _gate(self, message: Message, _: bytes | None) -> Message:
        """A finished job's gate key, for its consumer alone. Raises FinalityError before the payment is final."""
        state, job = self._current(), text_in(message, "job")
        if job not in state["jobs"]:
            raise NotFinalError("no final state grants this job")
        self._statement(state, text_in(message, "completed"), what=COMPLETED, job=job)
        grant = Grant.decode(state["jobs"][job]["grant"].encode())
        consumer = X25519PublicKey.from_public_bytes(bytes.fromhex(grant.consumer))
        sealed = delivery.SUITE.encrypt(_gate_key(state, job), consumer, gate_info(grant))
        return Message("result", arrays={"sealed": array_of(sealed)})

    def _current(self) -> dict[str, Any]:
        if self._state is None:
            raise NotFinalError("no state is open; install and confirm, or open the newest")
        return self._state

    def _used(self) -> str:
        """The nonce of the last challenge, which serves once."""
        if not self._nonce:
            raise RequestError("ask for a challenge first: statements about the head must be fresh")
        nonce, self._nonce = self._nonce, ""
        return nonce

    def _statement(self, state: dict[str, Any], text: str, **expected: object) -> Statement:
        witnesses = Witnesses(tuple(state["witnesses"]), state["threshold"])
        return witnesses.require(text.encode(), chain=state["chain"], market=state["market"], **expected)

    def _sealed(self, state: dict[str, Any]) -> Message:
        """Keep a successor of the current state, and give it out sealed. Nothing acts upon it yet."""
        data = json.dumps(state, sort_keys=True).encode()
        keys = self._platform.sealing_keys()
        sealed = seal(data, keys, _LABEL, "measurement", state["version"], bytes.fromhex(self._head))
        new = commitment(self._head, sealed, *state["last"])
        self._proposed[new] = state
        return Message("state", {"previous": self._head, "commitment": new}, {"sealed": array_of(sealed)})


def _gate_key(state: dict[str, Any], job: str) -> bytes:
    return hmac.digest(bytes.fromhex(state["gate"]), bytes.fromhex(job), "sha256")


def _loaded(data: bytes) -> dict[str, Any]:
    """A state as this enclave sealed it: JSON has no numbers as names."""
    state: dict[str, Any] = json.loads(data)
    return state | {"slots": {int(slot): value for slot, value in state["slots"].items()}}
