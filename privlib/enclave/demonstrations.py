"""What a reader can try with an enclave: attestations that fail, a ledger that is put back, a changed image.

Each gives rows for a table: what was tried, and the error that answered it. Whatever is not refused raises
AssertionError.
"""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from privlib.enclave.errors import EnclaveError, RequestRefused
from privlib.enclave.image import EnclaveImage, build_image
from privlib.enclave.launcher import Enclave, launch
from privlib.enclave.policy import QuotePolicy
from privlib.enclave.refusals import AttestationError
from privlib.enclave.session import Session
from privlib.enclave.state import StateStore
from privlib.enclave.verify import verify_quote
from privlib.trusted.epoch import TrainRequest
from privlib.trusted.model import CompiledModel
from privlib.trusted.platform import IDENTITY

_BYTE = 48 + 64  # the first of MRENCLAVE in a quote of version 3


def failed_attestations(enclave: Enclave, image: EnclaveImage, policy: QuotePolicy) -> list[dict[str, str]]:
    """One flipped byte, another measurement, a replayed quote, a debug enclave. policy: accepts `enclave`."""
    asked, old = bytes(32), bytes(range(32))
    quote, evidence = enclave.quote(asked), enclave.collateral
    fresh = policy.fresh(b"", asked, IDENTITY)
    verify_quote(quote, fresh, evidence)
    flipped = quote[:_BYTE] + bytes([quote[_BYTE] ^ 1]) + quote[_BYTE + 1 :]
    other = replace(fresh, measurements=frozenset({bytes(32)}))

    def debug() -> None:
        with tempfile.TemporaryDirectory() as folder, launch(image, debug=True, state=StateStore(folder)) as opened:
            opened.connect(policy)

    tried: dict[str, Callable[[], object]] = {
        "one bit of the quoted measurement is flipped": lambda: verify_quote(flipped, fresh, evidence),
        "the policy expects another measurement": lambda: verify_quote(quote, other, evidence),
        "the quote answers an earlier nonce": lambda: verify_quote(quote, policy.fresh(b"", old, IDENTITY), evidence),
        "the same image, launched for debugging": debug,
        "Intel's root is asked to vouch for it": lambda: verify_quote(quote, replace(fresh, root=None), evidence),
    }
    return [_refused(what, act) for what, act in tried.items()]


def changed(model: CompiledModel, image: EnclaveImage) -> EnclaveImage:
    """The same artifact with one byte more of memory allowed: another measurement."""
    memory = image.configuration["memory_bytes"]
    return build_image(model, memory_bytes=memory + 1, dataset_bytes=image.configuration["dataset_bytes"])


def put_back(session: Session, state: StateStore, request: TrainRequest) -> dict[str, str]:
    """The host puts back the ledger from before an epoch, so as to spend its ε again; then the newest one returns.
    The dataset is charged for one epoch of `request`."""
    with tempfile.TemporaryDirectory() as folder:
        (sealed,) = state.folder.glob("*.sealed")
        older, newest = Path(folder, "older"), Path(folder, "newest")
        shutil.copy(sealed, older)
        session.train(request)
        shutil.copy(sealed, newest)
        try:
            shutil.copy(older, sealed)
            return _refused("yesterday's ledger is put back", lambda: session.train(request))
        finally:
            shutil.copy(newest, sealed)


def over_budget(session: Session, request: TrainRequest) -> dict[str, str]:
    """An epoch that would pass its datasets' terms."""
    return _refused(f"{request.steps} more updates are asked for", lambda: session.train(request))


def _refused(what: str, act: Callable[[], object]) -> dict[str, str]:
    try:
        act()
    except RequestRefused as error:
        return {"what is tried": what, "answer": error.type, "in words": str(error)[:150]}
    except (AttestationError, EnclaveError) as error:
        return {"what is tried": what, "answer": type(error).__name__, "in words": str(error)[:150]}
    raise AssertionError(f"{what}: nobody refused")
