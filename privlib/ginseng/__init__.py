"""Ginseng: an accelerator (VTA) whose every byte in DRAM is encrypted and authenticated, simulated.

`lower` turns a network into instruction streams (a PyTorch model is quantised to int8 first); `simulate` times one
inference under a protection mode; `privlib.ginseng.device` is the platform "ginseng" of `privlib.enclave.launch`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from privlib.ginseng.errors import GinsengError
    from privlib.ginseng.report import CycleReport
    from privlib.ginseng.simulation import simulate
    from privlib.ginseng.tec import TecTiming
    from privlib.ginseng.vta.compile import lower
    from privlib.ginseng.vta.program import VtaProgram

__all__ = ["CycleReport", "GinsengError", "TecTiming", "VtaProgram", "lower", "simulate"]

_HOMES = {
    "CycleReport": "report",
    "GinsengError": "errors",
    "TecTiming": "tec",
    "VtaProgram": "vta.program",
    "lower": "vta.compile",
    "simulate": "simulation",
}


def __getattr__(name: str) -> Any:
    """Names are looked up when they are used: a device carries nothing of what lowers and times programs."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
