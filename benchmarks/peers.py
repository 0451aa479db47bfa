"""Images a second of training, data path included, beside others, in one run: ResNet-26 teaches ResNet-8.

    python benchmarks/peers.py --out peers
    python benchmarks/peers.py --data cifar10 --teacher resnet26_cifar10.pt --set train.compile=auto --out peers

All take their steps in turn, round by round. Ours are the product's steps with the product's batches. `plain loop` is
what one writes first: a DataLoader whose workers crop and flip PIL images, eager KD. `straightforward BSS` is the
published algorithm in that loop (see `bss_step`). `torchdistill` runs from its own package, where that is installed.
Without `--data` images are a pattern for each class under noise; without `--teacher` it is trained on a few of them for
a moment and made as steep as the published one, since how far walks go is up to the teacher. The share of the peak is
the convolutions' and matrix products' operations a second over those of the machine's fastest matrix product in the
same precision. Nothing depends on the figures.
"""

import argparse
import copy
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import bss_step
import torch
import trainings
from PIL import Image
from rounds import in_turns, machine, markdown, median_and_range, operations, peak, write_json
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as Samples

from compressor.batch import Batch
from compressor.data import Dataset, Held
from compressor.models import Normalized, build

Step = Callable[[], object]
COLUMNS = ("training", "images/s", "range", "ms a step", "GFLOP a step", "share of peak")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TORCHDISTILL = "KD fp32, torchdistill"


def main(words: list[str] | None = None) -> dict[str, Any]:
    options = arguments(words)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    data = trainings.images(options.data, device, count=256 if options.quick else 20_000)
    arch = "resnet8" if options.quick else "resnet26"
    teacher = trainings.taught(data, arch, options.teacher, device, steps=2 if options.quick else 40)
    student = Normalized(
        build("resnet8", classes=len(data.classes), input_shape=data.input_shape), data.mean, data.std
    ).to(device)
    trainings.learnt(student, data, steps=2 if options.quick else 40)
    print(f"{device.type}, {torch.get_num_threads()} threads, batch {options.batch}, data {options.data or 'random'}")

    steps, counted = contestants(data, teacher, student, options, device)
    for step in counted.values():
        step()  # the first folds the teacher
    work = {name: operations(step) for name, step in counted.items()}
    times = in_turns(steps, rounds=options.rounds, each=options.each, warm=options.warm, device=device)
    peaks = {name: peak(device, dtype, size=options.peak_size) for name, dtype in DTYPES.items()}
    found = {name: row(name, times[name], work.get(name), peaks, options.batch) for name in steps}
    lines = [table(found), *sentences(found)]
    if find_spec("torchdistill") is None:
        lines.append("torchdistill is not installed, and not compared with.")
    print("\n".join(lines))
    result = {**machine(device), "peaks": peaks, "rows": found, "set": options.set, "batch": options.batch}
    if options.out is not None:
        write_json(options.out / "peers.json", result)
        (options.out / "peers.md").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return result


def contestants(
    data: Dataset, teacher: Normalized, student: Normalized, options: argparse.Namespace, device: torch.device
) -> tuple[dict[str, Step], dict[str, Step]]:
    """Return the steps to time, and for each whose operations can be counted, such a step run eagerly."""
    steps: dict[str, Step] = {}
    counted: dict[str, Step] = {}
    for kind in ("kd", "bss"):
        for precision in DTYPES:
            sections = {
                "data": {"name": "random", "batch_size": options.batch},
                "student": {"arch": "resnet8"},
                "method": {"kind": kind},
                "train": {"precision": precision, "lr": 0.01, "epochs": 80},
            }
            inputs = trainings.prepared(data, teacher, sections, options.set, device=device)
            name = f"{kind.upper()} {precision}"
            steps[name] = trainings.stepping(inputs, trainings.weights_of(student))
            counted[name] = trainings.stepping(trainings.eager(inputs), trainings.weights_of(student))
    loaders = {"workers": options.workers, "batch": options.batch, "device": device}
    for precision in DTYPES:
        name = f"KD {precision}, plain loop"
        counted[name] = steps[name] = plain_kd(data, teacher, student, precision, loaders)
    name = "BSS fp32, straightforward"
    counted[name] = steps[name] = plain_bss(data, teacher, student, loaders)
    if find_spec("torchdistill") is not None:
        counted[TORCHDISTILL] = steps[TORCHDISTILL] = torchdistill_kd(data, teacher, student, loaders)
    return steps, counted


def row(
    name: str, times: list[float], work: int | None, peaks: dict[str, float], batch: int
) -> dict[str, float | None]:
    """Return the figures of one training, from its seconds a step and its operations."""
    middle, fastest, slowest = median_and_range(times)
    top = peaks[name.split(",")[0].split()[1]]
    return {
        "images_per_s": batch / middle,
        "lowest": batch / slowest,
        "highest": batch / fastest,
        "ms": 1000 * middle,
        "gflop": None if work is None else work / 1e9,
        "share_of_peak": None if work is None else work / middle / top,
    }


def table(found: dict[str, dict[str, Any]]) -> str:
    def cells(name: str, each: dict[str, Any]) -> tuple[str, ...]:
        gflop, share = (each[key] for key in ("gflop", "share_of_peak"))
        return (
            name,
            f"{each['images_per_s']:,.0f}",
            f"{each['lowest']:,.0f}-{each['highest']:,.0f}",
            f"{each['ms']:.1f}",
            "" if gflop is None else f"{gflop:.1f}",
            "" if share is None else f"{share:.0%}",
        )

    return markdown(COLUMNS, [cells(name, each) for name, each in found.items()])


def sentences(found: dict[str, dict[str, Any]]) -> list[str]:
    """Return what is asked of the figures: our rates over the others', and a BSS epoch over a KD epoch."""
    rate = {name: each["images_per_s"] for name, each in found.items()}
    others = [name for name in ("KD fp32, plain loop", TORCHDISTILL) if name in rate]
    pairs = [("KD", other) for other in others] + [("BSS", "BSS fp32, straightforward")]
    said = [
        f"{kind} over {other}: "
        + ", ".join(f"{rate[f'{kind} {each}'] / rate[other]:.2f}x {each}" for each in DTYPES)
        + "."
        for kind, other in pairs
    ]
    epochs = ", ".join(f"{rate[f'KD {each}'] / rate[f'BSS {each}']:.2f} in {each}" for each in DTYPES)
    return [*said, f"KD epochs that a BSS epoch costs: {epochs}."]


class Pictures(Samples[tuple[Any, int]]):
    """The training images as others read them: PIL images, with transforms for each."""

    def __init__(self, data: Dataset, transform: Callable[[Any], Any]) -> None:
        if not isinstance(data.train.source, Held):
            raise SystemExit("the images do not fit in memory, and are not compared")
        self.pixels = data.train.source.images[data.train.rows].cpu().numpy()
        self.labels = data.train.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> tuple[Any, int]:
        pixels = self.pixels[place]
        return self.transform(Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])), self.labels[place]


def pictures(data: Dataset) -> Pictures:
    from torchvision import transforms

    size, unit = data.input_shape[1], max(1, data.input_shape[1] // 8)
    moved = [transforms.RandomCrop(size, padding=unit), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    return Pictures(data, transforms.Compose(moved))


def loaded(data: Dataset, loaders: dict[str, Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of one epoch after the other, by workers that stay."""
    device, workers = loaders["device"], loaders["workers"]
    loader = DataLoader(
        pictures(data),
        batch_size=loaders["batch"],
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )
    while True:
        for images, labels in loader:
            yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def plain_kd(data: Dataset, teacher: nn.Module, student: nn.Module, precision: str, loaders: dict[str, Any]) -> Step:
    student, teacher = copy.deepcopy(student).train(), copy.deepcopy(teacher).eval()
    optimiser = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    batches, kind = loaded(data, loaders), loaders["device"].type

    def step() -> None:
        images, labels = next(batches)
        with torch.autocast(kind, DTYPES[precision], enabled=precision != "fp32"):
            with torch.no_grad():
                taught = teacher(images)
            logits = student(images)
            loss = F.cross_entropy(logits, labels) + 4 * bss_step.softened(logits, taught)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def plain_bss(data: Dataset, teacher: nn.Module, student: nn.Module, loaders: dict[str, Any]) -> Step:
    batches = loaded(data, loaders)
    published, number = bss_step.straightforward(teacher, student), iter(range(10**9))

    def step() -> None:
        images, labels = next(batches)
        published(Batch(images, labels, labels), next(number))

    return step


def torchdistill_kd(data: Dataset, teacher: nn.Module, student: nn.Module, loaders: dict[str, Any]) -> Step:
    """KD by the package's own box and loss, as its sample configuration for CIFAR-10 has it."""
    from torch.utils.data import RandomSampler
    from torchdistill.core.distillation import get_distillation_box

    loader = {"batch_size": loaders["batch"], "num_workers": loaders["workers"], "drop_last": True}
    if loaders["workers"]:
        loader["persistent_workers"] = True
    paths = {f"{who}_module_{what}": value for who in ("student", "teacher") for what, value in LOGITS.items()}
    loss = {"key": "KDLoss", "kwargs": {**paths, "temperature": 4.0, "alpha": 0.9, "reduction": "batchmean"}}
    config = {
        "num_epochs": 1,
        "train_data_loader": {"dataset_id": "train", "sampler": {"class_or_func": RandomSampler}, "kwargs": loader},
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only", "requires_grad": True},
        "optimizer": {"key": "SGD", "kwargs": {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": loss, "weight": 1.0}}},
        },
    }
    networks = (copy.deepcopy(teacher).eval(), copy.deepcopy(student))
    box = get_distillation_box(*networks, {"train": pictures(data)}, config, loaders["device"], None, False, 1)
    box.pre_epoch_process(epoch=0)

    def batches() -> Iterator[Any]:
        while True:
            yield from box.train_data_loader

    stream = batches()

    def step() -> None:
        images, labels, more = next(stream)
        images, labels = images.to(loaders["device"]), labels.to(loaders["device"])
        total = box.forward_process(images, labels, more)
        box.post_forward_process(loss=total)
        total.item()  # as its example's log does

    return step


LOGITS = {"path": ".", "io": "output"}


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    trainings.common(parser)
    parser.add_argument("--data", help="cifar10, folder:PATH, ...; by default random images")
    parser.add_argument("--teacher", type=Path, help="weights of a CIFAR ResNet-26, a plain state dict")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--each", type=int, default=10, help="timed steps of a turn")
    parser.add_argument("--warm", type=int, default=5, help="steps of a turn before these")
    parser.add_argument("--workers", type=int, default=2, help="of the others' loaders")
    parser.add_argument("--peak-size", type=int, help="of the matrices whose product is the peak")
    parser.add_argument("--out", type=Path, help="folder for peers.json and peers.md")
    options = parser.parse_args(words)
    if options.quick:
        options.batch, options.rounds, options.each, options.warm, options.workers = 16, 1, 1, 1, 0
    if options.peak_size is None:
        options.peak_size = 128 if options.quick else 8192 if options.device.startswith("cuda") else 2048
    return options


if __name__ == "__main__":
    main()
