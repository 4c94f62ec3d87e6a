"""The executable monitor: the transition table, run on Python integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privlib.errors import PrivlibError
from privlib.ginseng.monitor.expr import Concrete, interpret
from privlib.ginseng.monitor.table import MAPS, SCALARS, TABLE, Transition

_CONCRETE = Concrete()


class MonitorError(PrivlibError):
    """A call that is not in the table, or comes with the wrong arguments."""


@dataclass(frozen=True)
class Reply:
    """What the caller sees: the guard that refused the call (None: served) and the call's value (0 if it has none)."""

    refused: str | None
    value: int = 0


class Monitor:
    """One device. `call` performs one transition; `state` is the whole state, for tests and pictures."""

    def __init__(self, table: Sequence[Transition] = TABLE) -> None:
        self._calls = {transition.name: transition for transition in table}
        self.state: dict[str, Any] = dict.fromkeys(SCALARS, 0) | {name: {} for name in MAPS}

    def call(self, name: str, **arguments: int) -> Reply:
        """Performs a call for whoever runs (`running`; 0 is the host); a refused call changes nothing."""
        transition = self._calls.get(name)
        if transition is None:
            raise MonitorError(f"unknown call {name!r}; the calls are {', '.join(self._calls)}")
        if set(arguments) != set(transition.arguments):
            raise MonitorError(f"{name} takes ({', '.join(transition.arguments)}), not ({', '.join(arguments)})")
        if not all(isinstance(given, int) for given in arguments.values()):
            raise MonitorError(f"arguments of {name} must be integers")
        for guard in transition.guards:
            if not interpret(guard.condition, _CONCRETE, self.state, arguments):
                return Reply(guard.name)
        # Everything is computed from the state before, then written.
        reply = interpret(transition.reply, _CONCRETE, self.state, arguments)
        writes = []
        for update in transition.updates:
            index = None if update.index is None else interpret(update.index, _CONCRETE, self.state, arguments)
            writes.append((update.field, index, interpret(update.value, _CONCRETE, self.state, arguments)))
        for field, index, new in writes:
            if index is None:
                self.state[field] = new
            else:
                self.state[field][index] = new
        return Reply(None, reply)


def size() -> dict[str, tuple[int, int]]:
    """Lines and bytes of the monitor's part of the trusted base: the table, its language, the machine."""
    folder = Path(__file__).parent
    sizes = {}
    for name in ("expr.py", "table.py", "machine.py"):
        data = (folder / name).read_bytes()
        sizes[name] = (data.count(b"\n"), len(data))
    return sizes
