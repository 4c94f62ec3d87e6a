"""Images of changed inside code: what an attacker's worker would do, measured as something else."""

import shutil
from pathlib import Path

import privlib
from privlib.enclave.image import EnclaveImage, sign
from privlib.enclave.inventory import runtime_files
from privlib.enclave.signer import Signer

SOURCES = Path(privlib.__file__).parents[1]


def clone(folder: Path) -> Path:
    """Another folder with the same package."""
    ignore = shutil.ignore_patterns("__pycache__", "ginseng", "cifar10-sample")
    shutil.copytree(SOURCES / "privlib", folder / "privlib", ignore=ignore)
    return folder


def image_of(sources: Path, like: EnclaveImage, signer: Signer) -> EnclaveImage:
    """An image with the artifact and configuration of `like`, and the code in `sources`."""
    kept = [file for file in like.files if file.name.startswith(("artifact/", "configuration"))]
    return sign([*kept, *runtime_files(sources)], signer, 1, 1)
