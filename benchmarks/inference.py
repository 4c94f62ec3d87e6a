"""Inference throughput: VGG-9, ResNet-32 and MobileNet at 224 pixels, batches of 16 and 64, privlib and its peers."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import harness
from benchmarks.cases import Case, ModelName
from privlib.suite import record
from privlib.suite.stats import median

if TYPE_CHECKING:
    import torch

VERSION = "1"
SEED = 20180
MODELS: dict[str, tuple[ModelName, int, int]] = {
    "vgg9": ("vgg9", 10, 32),
    "resnet32": ("resnet32", 10, 32),
    "mobilenet32": ("mobilenet", 10, 32),
    "mobilenet224": ("mobilenet", 1000, 224),
    "small_cnn": ("small_cnn", 10, 32),
}
ROWS = tuple(f"{model}_batch{batch}" for model in ("vgg9", "resnet32", "mobilenet224") for batch in (16, 64))
OUTSIDE = frozenset(path.stem for path in harness.PEERS.glob("[!_]*.py") if not path.stem.endswith("_enclave"))
FP32_PYTORCH = ("pytorch_eager", "pytorch_channels_last", "pytorch_compile")


def run(profile: str, rows: Sequence[str]) -> None:
    """Measure `rows`; each peer's throughput, memory and agreement, and our ratio to the fastest fp32 PyTorch."""
    record.seed("weights_and_images", SEED)
    for row in rows if profile != "smoke" else rows[:1]:
        with tempfile.TemporaryDirectory(prefix="privlib-bench-") as folder:
            model, batch = row.rsplit("_batch", 1)
            case = make_case(Path(folder), row, model, int(batch))
            measured = harness.compare(case, "inference", harness.EFFORTS[profile], OUTSIDE)
        rates = measured.throughput
        fastest = max(FP32_PYTORCH, key=lambda name: median(rates[name]))
        # Ratios of one round: what slows the machine for a while slows both.
        ratios = [ours / theirs for ours, theirs in zip(rates["privlib"], rates[fastest], strict=True)]
        record.samples(f"{row}/privlib/speedup_over_fastest_fp32_pytorch", ratios, "×", higher_is_better=True)


def make_case(folder: Path, row: str, model_name: str, batch_size: int, batches: int = 1) -> Case:
    """Lay down weights (of one of MODELS) and a batch of CIFAR-10 test images, enlarged to its size:
    as pixels, which privlib takes, and normalised beforehand for the others."""
    import torch

    from privlib import data, models

    name, classes, size = MODELS[model_name]
    case = Case(folder, row, name, classes, size, batch_size, batches)
    cifar = data.load_cifar10("test")
    record.dataset(cifar)
    pixels = torch.from_numpy(np.array(cifar.images[: case.batch_size])).permute(0, 3, 1, 2)
    if size != 32:
        enlarged = torch.nn.functional.interpolate(pixels.float(), (size, size), mode="bilinear", align_corners=False)
        pixels = enlarged.round().to(torch.uint8)
    images = torch.from_numpy(data.preprocess(pixels.permute(0, 2, 3, 1).numpy()))
    torch.manual_seed(SEED)
    model = models.build(name, num_classes=classes, image_size=size)
    _settle_batch_norm(model, images[:16])
    torch.save(model.state_dict(), folder / "weights.pt")
    np.save(folder / "input.npy", images.numpy())
    np.save(folder / "pixels.npy", np.ascontiguousarray(pixels.numpy()))
    case.save()
    return case


def _settle_batch_norm(model: "torch.nn.Module", images: "torch.Tensor") -> None:
    """Give BatchNorm statistics of real activations: with its initial ones the signal fades to nothing."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.train()(images)
    model.eval()
