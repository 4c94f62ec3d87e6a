"""The accelerator as a platform of `privlib.enclave`: SIMULATED hardware that boots measured, attests, and infers.

image = build_device_image(lower(model, calibration_images), model_key=key)
with launch(image, "ginseng") as device:
    policy = QuotePolicy(measurements={image.measurement}, root=simulated_root().certificate)
    with device.connect(policy) as session:
        provision_model(session, key, image, policy, device.collateral)
        logits = session.infer(images)

Real: the protocol, the measurement, the encryption of model, input and every byte in DRAM, the monitor's decisions, and
the int8 arithmetic to the bit. Simulated: the chip, which is a process of this machine that runs the functional
simulator; its fuses, which are files of the host; the maker that vouches for it. Training is refused.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from privlib.ginseng.device.errors import DeviceError, TrainingUnsupportedError
    from privlib.ginseng.device.hardware import simulated_root
    from privlib.ginseng.device.image import DeviceImage, build_device_image
    from privlib.ginseng.device.owner import provision_model
    from privlib.ginseng.device.platform import GinsengPlatform

_HOMES = {
    "DeviceError": "errors",
    "DeviceImage": "image",
    "GinsengPlatform": "platform",
    "TrainingUnsupportedError": "errors",
    "build_device_image": "image",
    "provision_model": "owner",
    "simulated_root": "hardware",
}

__all__ = [
    "DeviceError",
    "DeviceImage",
    "GinsengPlatform",
    "TrainingUnsupportedError",
    "build_device_image",
    "provision_model",
    "simulated_root",
]


def __getattr__(name: str) -> Any:
    """Looked up when used: the device itself needs none of what builds images."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
