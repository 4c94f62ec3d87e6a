"""The image of an accelerator: what the device is made of, and the program that it runs.

Its measurement is what the device's monitor will find when it boots, computed here by the same monitor over the same
files; a policy can name it before there is a device. Of an encrypted model the ciphertext is measured.
"""

from collections.abc import Mapping
from functools import cached_property

from privlib.enclave.image import EnclaveImage
from privlib.enclave.inventory import made
from privlib.enclave.signer import Signature, Signer
from privlib.ginseng.device import package, secure_os
from privlib.ginseng.vta.program import VtaProgram


class DeviceImage(EnclaveImage):
    """What `launch(image, "ginseng")` boots."""

    @cached_property
    def measurement(self) -> bytes:
        """What a booted device's quotes state as MRENCLAVE, 32 bytes. Raises PackageError, ImageError."""
        return measure({file.name: file.read() for file in self.files})


def build_device_image(
    program: VtaProgram,
    *,
    model_key: bytes | None = None,
    signer: Signer | None = None,
    product_id: int = 1,
    svn: int = 1,
) -> DeviceImage:
    """The image that runs `program`, which was lowered from a PyTorch model, signed.

    model_key: 32 bytes, of this model alone: its parameters are encrypted, and the device computes nothing before
    `provision_model` has delivered the key; None leaves them readable, and measured. signer: None for this user's own
    key in the cache. A device that has booted some `svn` refuses older ones. Raises PackageError, DatasetError,
    ImageError.
    """
    files = {**secure_os.own_files(), **package.pack(program, model_key)}
    own = [made(name, data, data if name.endswith((".py", ".sv")) else None) for name, data in files.items()]
    ordered = tuple(sorted(own, key=lambda file: file.name))
    measurement = DeviceImage(ordered, Signature(b"", 0, 0, b"")).measurement
    return DeviceImage(ordered, (signer or Signer.of_this_user()).sign(measurement, product_id, svn))


def measure(files: Mapping[str, bytes]) -> bytes:
    """The measurement, 32 bytes, of a device that is made of these files and runs the program among them. Raises
    PackageError."""
    program = {name: data for name, data in files.items() if name.startswith(package.FOLDER)}
    own = {name: data for name, data in files.items() if name not in program}
    return secure_os.SecureOs(package.read(program), secure_os.boot_digest(own)).measurement
