"""The Secure OS monitor as one transition table: every call, its guards, its updates, its reply.

The accelerator's monitor separates enclaves (tenants of the accelerator) from each other and from the host, which
drives the device but is not trusted. Caller 0 is the host; any other caller is the enclave that is running. A call
whose guards do not all hold changes nothing and answers with the first guard that failed.

State: `running`; per enclave `phase`, `measurement`, `key`; per region of device memory `owner`, `shared`, `content`,
`version`; `scratch`, the accelerator's on-chip buffers. An enclave's number is never used twice: a destroyed one
stays dead, and its regions wait for `reclaim`. Memory that an enclave owns and does not share lies encrypted under
its key; the `version` is what the Tensor Encryption Core puts into the nonce.

The executable monitor (machine.py) and the proofs (proofs.py) both read this table; neither repeats it.
"""

from __future__ import annotations

from dataclasses import dataclass

from privlib.ginseng.monitor.expr import Expr, argument, extend, field, lift

HOST = 0
NONE, BUILDING, READY, DEAD = range(4)
PHASES = ("none", "building", "ready", "dead")
MAX_VERSION = 2**32 - 1
# What a link of the measurement chain says; without it `map(1, 2)` and `share(1), share(2)` would measure the same.
MAPPED, SHARED, REPORTED = 1, 2, 3

SCALARS = ("running", "scratch")
ENCLAVE_MAPS = ("phase", "measurement", "key")
REGION_MAPS = ("owner", "shared", "content", "version")
MAPS = ENCLAVE_MAPS + REGION_MAPS
SECRETS = ("content", "key", "scratch")


NO_REPLY = lift(0)


@dataclass(frozen=True)
class Guard:
    """A condition under which the call is served; `owner_check` marks those about who owns what."""

    name: str
    condition: Expr
    owner_check: bool = False


@dataclass(frozen=True)
class Update:
    """`field[index]` (or `field`) becomes `value`, computed from the state before; `zeroing`: it wipes a secret."""

    field: str
    index: Expr | None
    value: Expr
    zeroing: bool = False

    def __str__(self) -> str:
        return f"{self.field}{'' if self.index is None else f'[{self.index}]'} = {self.value}"


@dataclass(frozen=True)
class Transition:
    """One call. `secrets` names the arguments that only the caller knows; the others are public."""

    name: str
    arguments: tuple[str, ...]
    guards: tuple[Guard, ...]
    updates: tuple[Update, ...] = ()
    reply: Expr = NO_REPLY
    secrets: tuple[str, ...] = ()


running, scratch = field("running"), field("scratch")
phase, measurement, key = field("phase"), field("measurement"), field("key")
owner, shared, content, version = field("owner"), field("shared"), field("content"), field("version")
enclave, region, value, nonce = argument("enclave"), argument("region"), argument("value"), argument("nonce")

BY_HOST = Guard("only the host manages enclaves", running.eq(HOST))
BY_ENCLAVE = Guard("only a running enclave may ask", running.ne(HOST))
IS_BUILDING = Guard("the enclave is being built", phase[enclave].eq(BUILDING))
IS_FREE = Guard("the region is free", owner[region].eq(HOST), owner_check=True)
IS_MINE = Guard("the region is the caller's", owner[region].eq(running), owner_check=True)
IS_OPEN = Guard("the region is free or shared", owner[region].eq(HOST) | shared[region].ne(0), owner_check=True)
HAS_VERSIONS = Guard("the region has versions left", version[region].lt(MAX_VERSION))


def put(name: str, index: Expr | None, new: Expr | int, *, zeroing: bool = False) -> Update:
    """An update."""
    return Update(name, index, lift(new), zeroing)


TABLE: tuple[Transition, ...] = (
    Transition(
        "create",
        ("enclave",),
        (
            BY_HOST,
            Guard("0 is the host", enclave.ne(HOST)),
            Guard("the number was never used", phase[enclave].eq(NONE)),
        ),
        (put("phase", enclave, BUILDING), put("measurement", enclave, extend(0, 0))),
    ),
    Transition(
        "map",
        ("enclave", "region", "value"),
        (BY_HOST, IS_BUILDING, IS_FREE, HAS_VERSIONS),
        (
            put("owner", region, enclave),
            put("content", region, value),
            put("version", region, version[region] + 1),
            put("measurement", enclave, extend(extend(extend(measurement[enclave], MAPPED), region), value)),
        ),
    ),
    Transition(
        "share",
        ("enclave", "region"),
        (BY_HOST, IS_BUILDING, IS_FREE),
        (
            put("owner", region, enclave),
            put("shared", region, 1),
            put("measurement", enclave, extend(extend(measurement[enclave], SHARED), region)),
        ),
    ),
    Transition("finalize", ("enclave",), (BY_HOST, IS_BUILDING), (put("phase", enclave, READY),)),
    Transition(
        "enter",
        ("enclave",),
        (BY_HOST, Guard("the enclave is ready", phase[enclave].eq(READY))),
        (put("running", None, enclave), put("scratch", None, 0, zeroing=True)),
    ),
    Transition("exit", (), (), (put("running", None, HOST), put("scratch", None, 0, zeroing=True))),
    Transition(
        "load_key",
        ("value",),
        (BY_ENCLAVE, Guard("the enclave has no key yet", key[running].eq(0))),
        (put("key", running, value),),
        secrets=("value",),
    ),
    Transition("load", ("region",), (BY_ENCLAVE, IS_MINE), (put("scratch", None, content[region]),)),
    Transition(
        "compute",
        ("value",),
        (BY_ENCLAVE,),
        (put("scratch", None, extend(scratch, value)),),
        secrets=("value",),
    ),
    Transition(
        "store",
        ("region",),
        (IS_MINE, Guard("the region is private", shared[region].eq(0)), HAS_VERSIONS),
        (put("content", region, scratch), put("version", region, version[region] + 1)),
    ),
    Transition("attest", ("nonce",), (BY_ENCLAVE,), reply=extend(extend(measurement[running], REPORTED), nonce)),
    Transition("peek", ("region",), (IS_OPEN,), reply=content[region]),
    Transition("poke", ("region", "value"), (IS_OPEN,), (put("content", region, value),)),
    Transition(
        "destroy",
        ("enclave",),
        (BY_HOST, Guard("the enclave lives", phase[enclave].eq(BUILDING) | phase[enclave].eq(READY))),
        (
            put("phase", enclave, DEAD),
            put("key", enclave, 0, zeroing=True),
            put("measurement", enclave, 0, zeroing=True),
        ),
    ),
    Transition(
        "reclaim",
        ("region",),
        (BY_HOST, Guard("the region's owner is dead", phase[owner[region]].eq(DEAD), owner_check=True)),
        (
            put("content", region, 0, zeroing=True),
            put("shared", region, 0, zeroing=True),
            put("owner", region, HOST),
        ),
    ),
)

CALLS = {transition.name: transition for transition in TABLE}
