"""Enclaves: a measured image, a platform that runs it closed in, a quote that proves it, a session that uses it.

image = build_image("model.privlib")
with launch(image) as enclave:
    logits = enclave.connect().infer(images)

`verify_quote` holds a DCAP quote, real or simulated, against a `QuotePolicy`; `SimulatedRoot` stands for the hardware
where there is none. `open_channel` and `deliver_key` talk to an enclave only once its quote has been verified.
"""

from privlib.enclave.channel import open_channel
from privlib.enclave.datasets import encrypt_dataset
from privlib.enclave.delivery import deliver_key
from privlib.enclave.errors import (
    EnclaveDied,
    EnclaveError,
    ImageError,
    LaunchError,
    MechanismError,
    PlatformError,
    RequestRefused,
)
from privlib.enclave.image import EnclaveImage, build_image
from privlib.enclave.launch import ALL_MECHANISMS, Enclave, launch
from privlib.enclave.platforms import register_platform
from privlib.enclave.policy import QuotePolicy
from privlib.enclave.refusals import AttestationError
from privlib.enclave.session import Release, Session
from privlib.enclave.signer import Signer
from privlib.enclave.simulated_root import SimulatedRoot
from privlib.enclave.verify import VerifiedQuote, verify_quote
from privlib.trusted.sealing import seal, unseal

__all__ = [
    "ALL_MECHANISMS",
    "AttestationError",
    "Enclave",
    "EnclaveDied",
    "EnclaveError",
    "EnclaveImage",
    "ImageError",
    "LaunchError",
    "MechanismError",
    "PlatformError",
    "QuotePolicy",
    "Release",
    "RequestRefused",
    "Session",
    "Signer",
    "SimulatedRoot",
    "VerifiedQuote",
    "build_image",
    "deliver_key",
    "encrypt_dataset",
    "launch",
    "open_channel",
    "register_platform",
    "seal",
    "unseal",
    "verify_quote",
]
