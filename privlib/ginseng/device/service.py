"""The requests a device answers, behind the same door as an enclave's.

request      fields   arrays               answer
infer                 images               result: logits
model_offer           nonce                result: public_key, quote
model_key             public_key, sealed   result
status                                     result: as of an enclave, and `model`: whether it is in memory

What trains (`train`, `offer`, `provision`) is refused by a TrainingUnsupportedError. Once memory was found altered, the
enclave is destroyed, its memory key and model are let go, and everything is refused.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from privlib.ginseng.device.errors import HaltedError, ModelMissingError, TrainingUnsupportedError
from privlib.ginseng.device.package import SEALED, Package
from privlib.ginseng.device.secure_os import GuardedDram, SecureOs
from privlib.ginseng.errors import IntegrityError
from privlib.ginseng.memory.encrypted import ExternalDram
from privlib.ginseng.vta import functional
from privlib.trusted.channel_errors import KeyDeliveryError
from privlib.trusted.delivery import KeyOffer
from privlib.trusted.host import Host, HostRegister
from privlib.trusted.platform import Platform
from privlib.trusted.protocol import Message, Stream
from privlib.trusted.requests import RequestError, array_of, bytes_in, takes
from privlib.trusted.sealing import SealedState

PURPOSE = "ginseng model"
STATE = "ginseng model key"
MAXIMUM_OFFERS = 64
_TRAINING = ("train", "offer", "provision")
_COUNTS = ("frames_in", "frames_out", "bytes_in", "bytes_out", "system_calls")


class DeviceService:
    """One booted device: its monitor, its DRAM, its model."""

    def __init__(
        self,
        package: Package,
        secure_os: SecureOs,
        memory: ExternalDram,
        platform: Platform,
        host: Host,
        stream: Stream,
    ) -> None:
        """memory: empty, under the boot's key."""
        self._package, self._os, self._platform, self._host, self._stream = package, secure_os, platform, host, stream
        self._memory: GuardedDram | None = GuardedDram(secure_os, memory)
        self._offers: dict[bytes, KeyOffer] = {}
        self._served, self._halted = 0, ""
        self._ready = SEALED not in package.files
        self._state: SealedState | None = None
        for region in package.program.regions.values():
            memory.begin(region)  # what the monitor mapped
            if region.name in package.constants:
                memory.write(region.base, package.constants[region.name])
        self._handlers: dict[str, tuple[Callable[[Message], Message], set[str]]] = {
            "infer": (self._infer, {"images"}),
            "model_offer": (self._offer, {"nonce"}),
            "model_key": (self._key, {"public_key", "sealed"}),
            "status": (self._status, set()),
        }

    def answer(self, message: Message, client: bytes | None) -> Message:
        """Raises PrivlibError, MemoryError."""
        if self._halted:
            raise HaltedError(f"{self._halted}; the enclave is destroyed, launch the device again")
        if message.kind in _TRAINING:
            raise TrainingUnsupportedError(
                f"{message.kind!r}: training on the accelerator is not claimed; train on another platform"
            )
        if message.kind not in self._handlers:
            raise RequestError(f"{message.kind[:40]!r} is no request; there are {', '.join(self._handlers)}")
        handle, arrays = self._handlers[message.kind]
        takes(message, set(), arrays)
        answered = handle(message)
        self._served += 1
        return answered

    def _infer(self, message: Message) -> Message:
        program, images = self._package.program, message.arrays["images"]
        shape = program.network.input_shape
        if images.dtype != np.float32 or images.shape[1:] != shape or images.ndim != 4:
            raise RequestError(f"images are float32 (B, {shape[0]}, {shape[1]}, {shape[2]}), "
                               f"got {images.dtype} {images.shape}")  # fmt: skip
        if not np.isfinite(images).all():
            raise RequestError("images hold what is no number; look at what was sent")
        self._need_model()
        integers = np.zeros((len(images), program.network.shapes[program.network.output][0]), np.int8)
        try:
            for number, image in enumerate(quantised(images, self._package.input_exponent)):
                with self._os.running():
                    integers[number] = functional.run(program, self._live(), image).ravel()
        except IntegrityError as error:
            self._halt(str(error))
            raise
        return Message("result", arrays={"logits": real(integers, self._package.output_exponent)})

    def _live(self) -> GuardedDram:
        assert self._memory is not None, "a halted device answers nothing"
        return self._memory

    def _halt(self, why: str) -> None:
        self._os.destroy()
        self._halted, self._memory, self._state = why, None, None
        self._package = replace(self._package, constants={})
        self._offers.clear()

    def _need_model(self) -> None:
        """Raises ModelMissingError, and RollbackError or SealError where the host's sealed state is not the newest."""
        if self._ready:
            return
        key = self._sealed().open(self._host.load(STATE))
        if key is None:
            raise ModelMissingError("the model is encrypted and its key has not come; its owner calls provision_model")
        self._load_model(key)

    def _load_model(self, key: bytes) -> None:
        contents = self._package.open_parameters(key)
        with self._os.running():
            for name, content in contents.items():
                region = self._package.program.regions[name]
                self._live().begin(region)
                self._live().write(region.base, content)
        self._ready = True

    def _offer(self, message: Message) -> Message:
        if len(self._offers) >= MAXIMUM_OFFERS:
            raise RequestError(f"{MAXIMUM_OFFERS} offers are open; use one")
        offer = KeyOffer(self._os.measurement, bytes_in(message, "nonce", 32), PURPOSE)
        quote = self._platform.quote(offer.report_data)
        self._offers[offer.public_key] = offer
        return Message("result", arrays={"public_key": array_of(offer.public_key), "quote": array_of(quote)})

    def _key(self, message: Message) -> Message:
        public_key, sealed = bytes_in(message, "public_key", 32), bytes_in(message, "sealed")
        if SEALED not in self._package.files:
            raise RequestError("the model of this image is not encrypted; it takes no key")
        if public_key not in self._offers:
            raise KeyDeliveryError("no such offer is open; ask for one")
        key = self._offers[public_key].open(sealed, self._package.context)
        del self._offers[public_key]
        self._package.open_parameters(key)  # a key of another model is refused before anything is kept
        state = self._sealed()
        state.open(self._host.load(STATE))
        blob = state.seal(key)
        self._host.store(STATE, blob)
        state.commit(blob)
        self._load_model(key)
        return Message("result")

    def _sealed(self) -> SealedState:
        if self._state is None:
            keys = self._platform.sealing_keys()
            self._state = SealedState(keys, STATE, HostRegister(self._host, STATE), bound="measurement")
        return self._state

    def _status(self, _: Message) -> Message:
        counts = {name: getattr(self._stream, name) for name in _COUNTS}
        fields = {"rows": {}, "updates": 0, "served": self._served, "host_calls": self._host.calls}
        return Message("result", {**fields, **counts, "model": self._ready})


def quantised(images: npt.NDArray[np.float32], exponent: int) -> npt.NDArray[np.int8]:
    """Nearest integers in [-128, 127] of images times 2**exponent; halves go up, as the accelerator's shift does."""
    return np.clip(np.floor(images.astype(np.float64) * 2.0**exponent + 0.5), -128, 127).astype(np.int8)


def real(integers: npt.NDArray[np.int8], exponent: int) -> npt.NDArray[np.float32]:
    """int8 outputs as real numbers."""
    return (integers / np.float32(2.0**exponent)).astype(np.float32)
