"""Enclaves: a measured image, a platform that runs it closed in, a session that uses it.

image = build_image("model.privlib")
with launch(image) as enclave:
    logits = enclave.connect().infer(images)
"""

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
from privlib.enclave.session import Release, Session
from privlib.enclave.signer import Signer

__all__ = [
    "ALL_MECHANISMS",
    "Enclave",
    "EnclaveDied",
    "EnclaveError",
    "EnclaveImage",
    "ImageError",
    "LaunchError",
    "MechanismError",
    "PlatformError",
    "Release",
    "RequestRefused",
    "Session",
    "Signer",
    "build_image",
    "launch",
    "register_platform",
]
