"""What SGX would add to a run: a model, fed with what was counted in that run. Every number it gives is `modelled`.

transitions   each system call of the worker leaves the enclave and comes back: 8,000 … 12,000 cycles
copies        what crosses is copied once more, between the enclave's and ordinary memory
paging        memory beyond the EPC is swapped, about 40,000 cycles a 4 KiB page (VAULT, ASPLOS 2018): at best only the
              part that does not fit moves in each pass over the memory, at worst (in cyclic use, least recently used
              first out) all of it does

Transition costs and EPC sizes: Gramine, "Performance tuning and analysis"; before Ice Lake 128 or 256 MB, since then up
to 1 TB in all. Not modelled: memory encryption inside the EPC, the TLB that is flushed, threads that wait.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from privlib.enclave.errors import EnclaveError

PAGE_BYTES = 4096
KIND = "modelled"
_COUNTED = ("system_calls", "bytes_in", "bytes_out")


@dataclass(frozen=True)
class SgxCosts:
    """The machine that is modelled. cycles: (least, most); copy_cycles_per_byte: of ordinary memory, 16 bytes a cycle
    at best and one at worst; epc_bytes: usable."""

    clock_hz: float = 3.0e9
    transition_cycles: tuple[float, float] = (8_000.0, 12_000.0)
    copy_cycles_per_byte: tuple[float, float] = (1 / 16, 1.0)
    page_cycles: float = 40_000.0
    epc_bytes: int = 128 << 20

    def __post_init__(self) -> None:
        positive = [self.clock_hz, *self.transition_cycles, *self.copy_cycles_per_byte, self.page_cycles]
        if min(positive) <= 0 or self.epc_bytes < PAGE_BYTES:
            raise EnclaveError(f"costs and sizes must be positive, got {self}")


@dataclass(frozen=True)
class ModelledSeconds:
    """A duration that nobody measured. kind: "modelled", always."""

    least: float
    most: float
    kind: str = KIND

    def __str__(self) -> str:
        return f"{self.least:.3g} … {self.most:.3g} s ({self.kind})"


@dataclass(frozen=True)
class ModelledCost:
    """What SGX would add to one run, by reason."""

    transitions: ModelledSeconds
    copies: ModelledSeconds
    paging: ModelledSeconds

    @property
    def total(self) -> ModelledSeconds:
        parts = (self.transitions, self.copies, self.paging)
        return ModelledSeconds(sum(each.least for each in parts), sum(each.most for each in parts))


def modelled_cost(
    before: Mapping[str, int],
    after: Mapping[str, int],
    peak_bytes: int,
    passes: int,
    costs: SgxCosts | None = None,
) -> ModelledCost:
    """The cost of what happened between two calls of `Session.status`.

    peak_bytes: planned peak memory of the artifact (`memory.peak_bytes`) and what lies beside it, datasets and
    libraries; passes: how often the run goes through it (physical batches). Raises EnclaveError for counts that fall.
    """
    machine = costs or SgxCosts()
    counted = {name: after[name] - before[name] for name in _COUNTED}
    if min(*counted.values(), peak_bytes, passes) < 0:
        raise EnclaveError(f"counts must rise from one status to the next, got {counted}, {peak_bytes}, {passes}")
    crossed = counted["bytes_in"] + counted["bytes_out"]
    least, most = _pages(peak_bytes, machine.epc_bytes)
    return ModelledCost(
        _seconds(machine, *(counted["system_calls"] * each for each in machine.transition_cycles)),
        _seconds(machine, *(crossed * each for each in machine.copy_cycles_per_byte)),
        _seconds(machine, *(passes * each * machine.page_cycles for each in (least, most))),
    )


def _pages(peak_bytes: int, epc_bytes: int) -> tuple[int, int]:
    """How many pages are swapped in one pass: (least, most)."""
    over = max(peak_bytes - epc_bytes, 0)
    return -(-over // PAGE_BYTES), -(-peak_bytes // PAGE_BYTES) if over else 0


def _seconds(costs: SgxCosts, least: float, most: float) -> ModelledSeconds:
    return ModelledSeconds(least / costs.clock_hz, most / costs.clock_hz)
