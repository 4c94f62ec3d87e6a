"""A provider's policy enclave: its image, and the provider's conversation with it.

The image holds no policy: the bytecode comes with the key, and its hash is in the terms that the data were encrypted
under, so one measurement serves every provider, and who gives a key knows what will decide over it.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privlib.enclave.errors import RequestRefused
from privlib.enclave.image import EnclaveImage, sign
from privlib.enclave.inventory import made, runtime_files
from privlib.enclave.launcher import launch
from privlib.enclave.platforms.base import Platform
from privlib.enclave.policy import QuotePolicy
from privlib.enclave.session import Session
from privlib.enclave.signer import Signer
from privlib.enclave.state import StateStore
from privlib.sterling.chain.compiled import compile_vyper
from privlib.sterling.errors import (
    AlreadyGranted,
    CredentialRefused,
    NotFinal,
    PolicyRefused,
    PolicyStateError,
    StateForked,
    StateRolledBack,
    SterlingError,
)
from privlib.trusted.loader import POLICY_MARK
from privlib.trusted.policy_call import claim_word
from privlib.trusted.protocol import Message
from privlib.trusted.serving import CONFIGURATION

POLICIES = Path(__file__).parent / "policies"
_CREDENTIALS = (
    "CredentialError", "ForgedCredential", "UntrustedIssuer", "ExpiredCredential", "RevokedCredential", "WrongSubject",
)  # fmt: skip
_SEALS = ("SealAlteredError", "SealFormatError", "SealIdentityError", "SealLabelError", "SealVersionError")
_REFUSALS: dict[str, type[SterlingError]] = {
    "PolicyRefusal": PolicyRefused,
    "PolicyProgramError": PolicyRefused,
    "NotFinalError": NotFinal,
    "FinalityError": NotFinal,
    "AlreadyGrantedError": AlreadyGranted,
    "StateForkError": StateForked,
    "StateRollbackError": StateRolledBack,
    **dict.fromkeys(_CREDENTIALS, CredentialRefused),
    **dict.fromkeys(_SEALS, PolicyStateError),
}


@dataclass(frozen=True)
class Rules:
    """The rules of the policy that ships, `policies/DatasetPolicy.vy`; any other bytecode with its `evaluate` will do.

    purposes, classes: accepted claims; licence: the one that must be claimed, "" for none; jobs_per_consumer: at most,
    ever; most_epsilon: of one job; least_price: wei that must be locked for the dataset.
    """

    purposes: tuple[str, ...] = ("research",)
    classes: tuple[str, ...] = ("hospital",)
    licence: str = ""
    jobs_per_consumer: int = 10
    most_epsilon: float = 100.0
    least_price: int = 0

    def code(self) -> bytes:
        """Deployment code with these rules as its arguments."""
        words = [tuple(claim_word(each) for each in texts) for texts in (self.purposes, self.classes)]
        numbers = (self.jobs_per_consumer, round(self.most_epsilon * 1e6), self.least_price)
        return compile_vyper(POLICIES / "DatasetPolicy.vy").creation((*words, claim_word(self.licence), *numbers))


def policy_hash(code: bytes) -> str:
    """What terms and the registry name a policy by: SHA-256 of its deployment code, hexadecimal."""
    return hashlib.sha256(code).hexdigest()


@cache
def policy_image(signer: Signer | None = None, memory_bytes: int = 256 << 20) -> EnclaveImage:
    """The image of a policy enclave, the same for every provider. Raises ImageError."""
    configuration = json.dumps({"memory_bytes": memory_bytes}, sort_keys=True).encode() + b"\n"
    files = [made(POLICY_MARK, b"policy\n"), made(CONFIGURATION, configuration), *runtime_files(kind="policy")]
    return sign(files, signer or Signer.of_this_user(), product_id=2, svn=1)


class PolicyEnclave:
    """A policy enclave that runs, and its provider's attested session with it. Context manager.

    authority: the provider's key, which alone installs and proposes. root: DER certificate that its quote must lead to.
    Every method raises the refusal's own class of `privlib.sterling.errors`, or RequestRefused.
    """

    def __init__(
        self, authority: Ed25519PrivateKey, state: StateStore, root: bytes, platform: str | Platform = "simulated"
    ) -> None:
        image = policy_image()
        self._enclave = launch(image, platform, state=state)
        policy = QuotePolicy(measurements=frozenset({image.measurement}), root=root)
        try:
            self._session: Session = self._enclave.connect(policy, identity=authority)
        except BaseException:
            self._enclave.close()
            raise

    def ask(self, kind: str, fields: dict[str, Any] | None = None, **arrays: bytes) -> Message:
        """One request of `privlib.trusted.policy_service`, and its answer."""
        named = {name: np.frombuffer(value, np.uint8) for name, value in arrays.items()}
        try:
            return self._session.request(Message(kind, fields or {}, named))
        except RequestRefused as error:
            if error.type in _REFUSALS:
                raise _REFUSALS[error.type](str(error)) from error
            raise

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._enclave.alive

    def challenge(self) -> str:
        """A nonce for the next statement about the head, hexadecimal."""
        return str(self.ask("challenge").fields["nonce"])

    def close(self) -> None:
        """End it."""
        self._enclave.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
