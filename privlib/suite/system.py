"""What a machine is: enough to say that two numbers come from comparable ones.

The system-id is a name for the whole description: change the processor, the memory, a library, and it is another
system. The report compares only numbers of one system.
"""

import hashlib
import json
import os
import platform
import re
from importlib import metadata
from pathlib import Path

import psutil

from privlib.files import atomic_path

# Features that decide which kernels run. The full flag list varies with the hypervisor and the kernel.
CPU_FEATURES = (
    "sse4_2", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16", "aes", "vaes", "sha_ni", "sgx", "tdx_guest",
    "asimd", "sve", "bf16",
)  # fmt: skip
LIBRARIES = ("apache-tvm", "cryptography", "jax", "numpy", "onnxruntime", "opacus", "scipy", "torch")


def describe() -> dict[str, object]:
    """Processor, cores, memory, operating system, library versions, threads, and the `id` made of all of it."""
    description: dict[str, object] = {
        "cpu": _processor()[0],
        "architecture": platform.machine(),
        "cpu_features": cpu_features(),
        "cores": os.cpu_count() or 1,
        "threads": available_cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "os": _operating_system(),
        "python": platform.python_version(),
        "libraries": library_versions(LIBRARIES),
    }
    return {"id": _identifier(description), **description}


def cpu_features() -> list[str]:
    """Those of `CPU_FEATURES` that the processor reports, in that order."""
    flags = _processor()[1]
    return [feature for feature in CPU_FEATURES if feature in flags]


def available_cores() -> int:
    """CPUs this process may run on (affinity), which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0))


def library_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Installed version of each distribution in `names`; those not installed are left out."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def write(description: dict[str, object], results: Path) -> Path:
    """Write `results/systems/<id>.json` where it is not there yet, and return its path."""
    path = results / "systems" / f"{description['id']}.json"
    if not path.is_file():
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _identifier(description: dict[str, object]) -> str:
    text = json.dumps(description, sort_keys=True, separators=(",", ":"))
    slug = re.sub(r"[^a-z0-9]+", "-", str(description["cpu"]).lower()).strip("-")[:32].strip("-")
    return f"{slug or 'cpu'}-{description['threads']}t-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _processor() -> tuple[str, frozenset[str]]:
    fields: dict[str, str] = {}
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        fields.setdefault(key.strip().lower(), value.strip())
    flags = fields.get("flags") or fields.get("features") or ""
    return fields.get("model name") or platform.processor() or platform.machine(), frozenset(flags.split())


def _operating_system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()
