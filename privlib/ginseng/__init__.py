"""Ginseng: an accelerator (VTA) whose every byte in DRAM is encrypted and authenticated, simulated.

`lower` turns a network into instruction streams (a PyTorch model is quantised to int8 first); `simulate` times one
inference under a protection mode.
"""

from privlib.ginseng.errors import GinsengError
from privlib.ginseng.report import CycleReport
from privlib.ginseng.simulate import simulate
from privlib.ginseng.tec import TecTiming
from privlib.ginseng.vta.compile import lower
from privlib.ginseng.vta.program import VtaProgram

__all__ = ["CycleReport", "GinsengError", "TecTiming", "VtaProgram", "lower", "simulate"]
