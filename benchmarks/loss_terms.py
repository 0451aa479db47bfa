"""What each loss term adds to a plain KD step, as a ratio.

    python benchmarks/loss_terms.py
    python benchmarks/loss_terms.py --quick

ResNet26 teaches ResNet8 on batches of random 32x32 images, both untrained: what a term costs does not depend on what
the networks know. Every variant is `kd` with one loss between logits in place of its own, or with one loss between
inner outputs beside it. All take their steps in turn, round by round, each round in another order, and the median of
the ratios to the KD step of the same round is printed, so that a busy machine slows all of them alike. `kd again` is a
second plain KD step: how far its ratio is from 1 is how far the others can be trusted. Asserts nothing.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable

import torch

from compressor.batch import Batch
from compressor.methods import Setting
from compressor.methods.kd import KD
from compressor.methods.losses import FEATURE_LOSSES, LOGIT_LOSSES
from compressor.models import Normalized, build
from compressor.recipe import Training
from compressor.training.loop import TrainingState

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
CLASSES, SAMPLES = 10, 50_000
SEVERAL = {
    "fsp": ["layer2", "layer3"],
    "reviewkd": ["layer1", "layer2", "layer3"],
}  # losses that take more than the last layer


def main() -> None:
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    sections: dict[str, dict[str, object]] = {"kd": {}, "kd again": {}}
    sections |= {f"soft {kind}": {"soft": {"kind": kind}} for kind in LOGIT_LOSSES}
    sections |= {f"features {kind}": {"features": [tapped(kind)]} for kind in FEATURE_LOSSES}
    rounds = 2 if options.quick else options.rounds
    batch = images(8 if options.quick else options.batch, device)
    print(f"{device.type}, {torch.get_num_threads()} threads, batch {len(batch.labels)}, {rounds} rounds")

    steps = {name: step(section, batch, device) for name, section in sections.items()}
    ratios: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        seconds = {name: timed(steps[name], device) for name in random.sample(list(steps), len(steps))}
        if number > 0:  # the first round warms up
            for name in steps:
                ratios[name].append(seconds[name] / seconds["kd"])
    for name, found in ratios.items():
        print(f"  {name:<18}{statistics.median(found):7.3f}")


def tapped(kind: str) -> dict[str, object]:
    taps = SEVERAL.get(kind, "layer3")
    return {"kind": kind, "student": taps, "teacher": taps}


def images(count: int, device: torch.device) -> Batch:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(count, 3, 32, 32, generator=generator)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    return Batch(pixels.to(device), labels.to(device), torch.arange(count, device=device))


def step(section: dict[str, object], batch: Batch, device: torch.device) -> Callable[[], None]:
    """A step of the training loop, with networks of its own."""
    torch.manual_seed(0)
    teacher, student = (
        Normalized(build(arch, classes=CLASSES, input_shape=(3, 32, 32)), MEAN, STD).to(device)
        for arch in ("resnet26", "resnet8")
    )
    setting = Setting(student, [teacher], CLASSES, (3, 32, 32), SAMPLES, torch.tensor(STD, device=device), device)
    objective = KD.model_validate(section).build(setting)
    training = Training(epochs=1, lr=0.01)
    state = TrainingState(student, objective, training, seed=0, device=device, steps_per_epoch=10**6)
    state.enter_training()

    def taken() -> None:
        state.advance(batch)

    return taken


def timed(work: Callable[[], None], device: torch.device) -> float:
    synchronise(device)
    started = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - started


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of PyTorch on the CPU")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--quick", action="store_true", help="two rounds of eight images: whether it works, no numbers")
    return parser.parse_args()


if __name__ == "__main__":
    main()
