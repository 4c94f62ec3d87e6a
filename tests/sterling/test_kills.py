"""Debit and release are one step, wherever the protocol is cut off: never an output without its debit.

Every effect of the protocol (a transaction, a request to an enclave, a file) is a place to die: before it, and after it
before anybody hears so. At each of them either the providers die, and the job must still be done; or everybody dies at
once, and it must be done or end in a refund. Enclaves end by SIGKILL; parties are made anew from their folders.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from privlib.enclave.session import Session
from privlib.enclave.simulated_root import SimulatedRoot
from privlib.errors import PrivlibError
from privlib.sterling import JobRequest, JobState, Rules
from privlib.sterling.chain import EmbeddedChain
from privlib.sterling.confidential import PolicyEnclave
from privlib.sterling.executor import Executor
from privlib.sterling.keeper import Keeper
from privlib.sterling.storage import ContentStore
from tests.sterling.world import World, outputs

EFFECTS = (
    (EmbeddedChain, "send"),
    (PolicyEnclave, "ask"),
    (Session, "request"),
    (Keeper, "write"),
    (Executor, "provision"),
    (ContentStore, "put"),
)


class Killed(BaseException):
    """Nothing may catch this, as nothing catches a SIGKILL."""


class Countdown:
    """Dies at its `at`-th place; `seen` counts them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.at, self.seen, self.inside = 0, 0, False
        self.names: list[str] = []
        for owner, name in EFFECTS:
            patch.setattr(owner, name, self.wrapped(getattr(owner, name), f"{owner.__name__}.{name}"))

    def wrapped(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        @functools.wraps(call)
        def acting(*arguments: Any, **options: Any) -> Any:
            if self.inside:  # an effect within an effect is one place
                return call(*arguments, **options)
            self.place(f"before {name}")
            self.inside = True
            try:
                result = call(*arguments, **options)
            finally:
                self.inside = False
            self.place(f"after {name}")
            return result

        return acting

    def place(self, name: str) -> None:
        self.seen += 1
        self.names.append(name)
        if self.seen == self.at:
            raise Killed(name)

    def arm(self, at: int) -> None:
        self.at, self.seen, self.names = at, 0, []


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("kills"), epsilon=1e4, rules=Rules(jobs_per_consumer=1000))
    yield made
    made.close()


@pytest.fixture
def countdown() -> Iterator[Countdown]:
    with pytest.MonkeyPatch.context() as patch:
        yield Countdown(patch)


def to_the_end(world: World, request: JobRequest) -> None:
    world.complete(request)
    world.consumer.receive(request, world.providers)


def check(world: World, request: JobRequest, before: int, known: list[str]) -> None:
    """What must hold whenever somebody looks."""
    state, charged = world.market.state(request.job), world.charged()[0]
    if outputs(world, known):
        assert charged > before, "an output without its debit"
    if state in (JobState.GRANTED, JobState.COMPLETED):
        assert charged > before
    if state is JobState.COMPLETED:
        assert not world.refunded(request)


def run_and_die(world: World, countdown: Countdown, at: int, everybody: bool) -> str:
    """One job that is cut off at a place, and what becomes of it; returns its final state."""
    request, before, known = world.request(), world.charged()[0], outputs(world)
    world.market.withdraw(world.consumer.account)
    countdown.arm(at)
    try:
        to_the_end(world, request)
        pytest.fail(f"there are no {at} places")
    except Killed:
        countdown.arm(0)
    check(world, request, before, known)
    if everybody:
        world.kill()
    else:
        world.restart_providers()
    check(world, request, before, known)
    collateral = None if everybody else world.executor.collateral
    try:
        world.complete(request)
    except PrivlibError:
        assert everybody, "the providers came back, and the job was not done"
        granted = world.market.state(request.job) is JobState.GRANTED
        assert not outputs(world, known)
        world.expire(request)
        assert world.market.state(request.job) is JobState.EXPIRED and world.refunded(request)
        assert (world.charged()[0] > before) == granted
        return "expired"
    check(world, request, before, known)
    found = world.consumer.receive(request, world.providers, collateral or root_collateral())
    assert found.verified.updates == request.grant.steps
    return "completed"


def root_collateral() -> str:
    return SimulatedRoot.load_or_create().collateral()


def places(world: World, countdown: Countdown) -> list[str]:
    """All of them, from a job that nobody interrupts; the first one's admits the enclave too, once and for all."""
    for _ in range(2):
        request = world.request()
        countdown.arm(0)
        world.complete(request)
        world.consumer.receive(request, world.providers, world.executor.collateral)
    return list(countdown.names)


def test_never_an_output_without_its_debit(world: World, countdown: Countdown) -> None:
    """A few places, the ones about the charge among them; the soak dies at all of them."""
    names = places(world, countdown)
    sends = [at for at, name in enumerate(names, 1) if name == "after EmbeddedChain.send"]
    assert len(sends) == 3  # commitment, approval, completion
    approved, completed = sends[1:]
    assert run_and_die(world, countdown, approved, everybody=False) == "completed"
    assert run_and_die(world, countdown, approved, everybody=True) == "expired"
    assert run_and_die(world, countdown, completed, everybody=True) == "completed"


@pytest.mark.soak
def test_never_an_output_without_its_debit_at_any_place(world: World, countdown: Countdown) -> None:
    names = places(world, countdown)
    ends = [
        run_and_die(world, countdown, at, everybody) for at in range(1, len(names) + 1) for everybody in (False, True)
    ]
    assert len(names) > 40 and {"completed", "expired"} == set(ends)
