"""What a step of each method, and of kd with each loss, costs in plain KD steps, as a ratio.

    python benchmarks/loss_terms.py
    python benchmarks/loss_terms.py --keep     # into the file that `compress methods` reads
    python benchmarks/loss_terms.py --quick

ResNet26 teaches ResNet8 on scikit-learn's digits, enlarged to 32x32. Both are trained for a moment, and the teacher is
made as steep as the published one (`bss_step.py`), since how far a walk to the boundary goes is up to it. Every variant
is a method with its defaults in the first epoch of 80, with the teacher twice where it needs two, or `kd` with one loss
between logits in place of its own, or with one loss between inner outputs beside it. Methods without data, with a
second stream or with a student of other layers are left out: their steps are of other images or networks.

All take their steps in turn, round by round, each round in another order, and the median of the ratios to the KD step
of the same round is printed, so that a busy machine slows all of them alike. `kd again` is a second plain KD step: how
far its ratio is from 1 is how far the others can be trusted. Asserts nothing.
"""

import argparse
import copy
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from bss_step import digits, steepen, warm_up
from torch import Tensor

from compressor.batch import Batch
from compressor.methods import METHODS, Method, Setting, guide
from compressor.methods.losses import FEATURE_LOSSES, LOGIT_LOSSES
from compressor.models import Normalized, build
from compressor.recipe import Training
from compressor.training.loop import TrainingState

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
CLASSES, SAMPLES = 10, 50_000
KEPT = Path(guide.__file__).with_name("costs.json")
REQUIRED: dict[str, dict[str, object]] = {"ackd": {"stages": ["layer1", "layer2"]}}  # of methods that have no default
SEVERAL = {
    "fsp": ["layer2", "layer3"],
    "reviewkd": ["layer1", "layer2", "layer3"],
}  # losses that take more than the last layer


def main() -> None:
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    kd = METHODS["kd"]
    variants: dict[str, Method] = {"method kd": kd(), "kd again": kd()}
    variants |= {f"method {kind}": one for kind in METHODS if kind != "kd" and (one := alike(kind)) is not None}
    variants |= {f"soft {kind}": kd.model_validate({"soft": {"kind": kind}}) for kind in LOGIT_LOSSES}
    variants |= {f"features {kind}": kd.model_validate({"features": [tapped(kind)]}) for kind in FEATURE_LOSSES}
    rounds = 2 if options.quick else options.rounds
    torch.manual_seed(0)
    pixels, labels = (part.to(device) for part in digits())
    teacher, student = learned(pixels, labels, device)
    rows = torch.randperm(len(pixels))[: 8 if options.quick else options.batch].to(device)
    batch = Batch(pixels[rows], labels[rows], rows)
    protocol = (
        f"resnet26 to resnet8, batches of {len(batch.labels)} enlarged digits, {device.type}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, median of {rounds} rounds"
    )
    print(protocol)

    steps = {name: step(method, teacher, student, batch) for name, method in variants.items()}
    ratios: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        seconds = {name: timed(steps[name], device) for name in random.sample(list(steps), len(steps))}
        if number > 0:  # the first round warms up
            for name in steps:
                ratios[name].append(seconds[name] / seconds["method kd"])
    medians = {name: round(statistics.median(found), 3) for name, found in ratios.items()}
    for name, found in medians.items():
        print(f"  {name:<18}{found:7.3f}")
    if options.keep:
        again = medians.pop("kd again")
        kept = {"protocol": f"{protocol}; a second kd took {again}", "ratios": medians}
        KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def alike(kind: str) -> Method | None:
    """Return a method with its defaults, None where its steps are of other images or another student."""
    one = METHODS[kind]
    needs = one.needs
    if not needs.data or needs.unlabelled or needs.target or hasattr(one, "alter"):
        return None
    method: Method = one.model_validate(REQUIRED.get(kind, {}))
    return method


def tapped(kind: str) -> dict[str, object]:
    taps = SEVERAL.get(kind, "layer3")
    return {"kind": kind, "student": taps, "teacher": taps}


def learned(pixels: Tensor, labels: Tensor, device: torch.device) -> tuple[Normalized, Normalized]:
    """Return a teacher and a student that know enough for their boundaries to be walked to."""
    teacher, student = (
        Normalized(build(arch, classes=CLASSES, input_shape=(3, 32, 32)), MEAN, STD).to(device)
        for arch in ("resnet26", "resnet8")
    )
    warm_up(teacher, METHODS["ce"](), [], pixels, labels, steps=40)
    steepen(teacher.eval(), pixels[:64])
    warm_up(student, METHODS["kd"](), [teacher], pixels, labels, steps=25)
    return teacher, student


def step(method: Method, teacher: Normalized, student: Normalized, batch: Batch) -> Callable[[], None]:
    """A step of the training loop, with networks of its own."""
    student, device = copy.deepcopy(student), batch.images.device
    teachers = [copy.deepcopy(teacher) for _ in range(method.needs.teachers)]
    setting = Setting(student, teachers, CLASSES, (3, 32, 32), SAMPLES, torch.tensor(STD, device=device), device)
    objective = method.build(setting)
    training = Training(epochs=80, lr=0.01)
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
    parser.add_argument("--keep", action="store_true", help=f"write {KEPT.name}, which `compress methods` reads")
    parser.add_argument("--quick", action="store_true", help="two rounds of eight images: whether it works, no numbers")
    return parser.parse_args()


if __name__ == "__main__":
    main()
