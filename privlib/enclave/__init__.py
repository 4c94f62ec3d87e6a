"""Enclaves: a measured image, a platform that runs it closed in, a quote that proves it, a session that uses it.

image = build_image("model.privlib")
with launch(image) as enclave:
    policy = QuotePolicy(measurements={image.measurement}, root=SimulatedRoot.load_or_create().certificate)
    logits = enclave.connect(policy).infer(images)

`verify_quote` holds a DCAP quote, real or simulated, against a `QuotePolicy`; `SimulatedRoot` stands for the hardware
where there is none. Providers encrypt with `encrypt_examples` and release with `Session.provision`; `Session.train`
gives a `Release`, and `verify_release` checks its certificate.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from privlib.enclave.costs import SgxCosts, modelled_cost
    from privlib.enclave.datasets import EncryptedDataset, encrypt_examples
    from privlib.enclave.errors import (
        EnclaveDied,
        EnclaveError,
        ImageError,
        LaunchError,
        LaunchTimeout,
        MechanismError,
        PlatformError,
        RequestRefused,
    )
    from privlib.enclave.image import EnclaveImage, build_image
    from privlib.enclave.launcher import ALL_MECHANISMS, Enclave, launch
    from privlib.enclave.platforms import register_platform
    from privlib.enclave.policy import QuotePolicy
    from privlib.enclave.refusals import AttestationError
    from privlib.enclave.release import Release, ReleaseError, VerifiedRelease, verify_release
    from privlib.enclave.session import Session
    from privlib.enclave.signer import Signer
    from privlib.enclave.simulated_root import SimulatedRoot
    from privlib.enclave.state import StateStore
    from privlib.enclave.verify import VerifiedQuote, verify_quote
    from privlib.trusted.epoch import TrainRequest
    from privlib.trusted.sealing import seal, unseal
    from privlib.trusted.terms import Terms

_HOMES = {
    "privlib.enclave.costs": ("SgxCosts", "modelled_cost"),
    "privlib.enclave.datasets": ("EncryptedDataset", "encrypt_examples"),
    "privlib.enclave.errors": (
        "EnclaveDied", "EnclaveError", "ImageError", "LaunchError", "LaunchTimeout",
        "MechanismError", "PlatformError", "RequestRefused",
    ),
    "privlib.enclave.image": ("EnclaveImage", "build_image"),
    "privlib.enclave.launcher": ("ALL_MECHANISMS", "Enclave", "launch"),
    "privlib.enclave.platforms": ("register_platform",),
    "privlib.enclave.policy": ("QuotePolicy",),
    "privlib.enclave.refusals": ("AttestationError",),
    "privlib.enclave.release": ("Release", "ReleaseError", "VerifiedRelease", "verify_release"),
    "privlib.enclave.session": ("Session",),
    "privlib.enclave.signer": ("Signer",),
    "privlib.enclave.simulated_root": ("SimulatedRoot",),
    "privlib.enclave.state": ("StateStore",),
    "privlib.enclave.verify": ("VerifiedQuote", "verify_quote"),
    "privlib.trusted.epoch": ("TrainRequest",),
    "privlib.trusted.sealing": ("seal", "unseal"),
    "privlib.trusted.terms": ("Terms",),
}  # fmt: skip
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ALL_MECHANISMS",
    "AttestationError",
    "Enclave",
    "EnclaveDied",
    "EnclaveError",
    "EnclaveImage",
    "EncryptedDataset",
    "ImageError",
    "LaunchError",
    "LaunchTimeout",
    "MechanismError",
    "PlatformError",
    "QuotePolicy",
    "Release",
    "ReleaseError",
    "RequestRefused",
    "Session",
    "SgxCosts",
    "Signer",
    "SimulatedRoot",
    "StateStore",
    "Terms",
    "TrainRequest",
    "VerifiedQuote",
    "VerifiedRelease",
    "build_image",
    "encrypt_examples",
    "launch",
    "modelled_cost",
    "register_platform",
    "seal",
    "unseal",
    "verify_quote",
    "verify_release",
]


def __getattr__(name: str) -> Any:
    """Names are looked up when they are used: what verifies a quote or a release must not wait for TVM to load."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
