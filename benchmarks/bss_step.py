"""What one BSS step costs, beside a plain KD step and a straightforward implementation of the published algorithm.

    python benchmarks/bss_step.py
    python benchmarks/bss_step.py --teacher resnet26_cifar10.pt --images train.npz

ResNet26 teaches ResNet8 on batches of 32x32 images. How far the walks go is up to the teacher: without `--teacher` it
is trained for a moment on the scikit-learn digits, enlarged, and its logits are scaled until they are as steep as those
of the published CIFAR-10 teacher, on which a typical walk ends after one step. `--images` takes an array file with `x`
[N, 32, 32, 3] uint8 and `y` [N]. All variants take their steps in turn, round by round, and medians are compared, so
that a busy machine slows all of them alike. Prints ratios, asserts nothing.
"""

import argparse
import copy
import random
import statistics
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from rounds import seconds
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.attack import BoundaryAttack, sample_targets, select_bases
from compressor.batch import Batch
from compressor.methods import Method, Moment, Setting
from compressor.methods.bss import BSS
from compressor.methods.ce import CE
from compressor.methods.kd import KD
from compressor.models import Normalized, build

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
CLASSES, SIZE, STEPS = 10, 64, 10
STEEPNESS = 30.0  # median norm of a gap's gradient, by the normalised image: the published ResNet26 on CIFAR-10


def main(words: list[str] | None = None) -> dict[str, float]:
    """Return the median seconds of each step, by name, and print what follows from them."""
    options = arguments(words)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = torch.device(options.device)
    batch_size, rounds = (16, 1) if options.quick else (options.batch, options.rounds)
    images, labels = (part.to(device) for part in (digits() if options.images is None else arrays(options.images)))
    teacher, student = (
        Normalized(build(arch, classes=CLASSES, input_shape=(3, 32, 32)), MEAN, STD).to(device)
        for arch in ("resnet8" if options.quick else "resnet26", "resnet8")
    )
    if options.teacher is None:
        warm_up(teacher, CE(), [], images, labels, steps=2 if options.quick else 40)
        steepen(teacher.eval(), images[:64])
    else:
        teacher.network.load_state_dict(state(options.teacher))
    teacher.eval()
    warm_up(student, KD(), [teacher], images, labels, steps=2 if options.quick else 25)
    batches = [
        Batch(images[rows], labels[rows], rows)
        for rows in torch.randint(len(images), (rounds + 1, batch_size), device=device)
    ]
    print(f"{device.type}, {torch.get_num_threads()} threads, batch {batch_size}, {rounds} rounds")
    print(
        f"teacher: {options.teacher or 'trained for a moment, scaled'}; images: {options.images or 'digits, enlarged'}"
    )
    same_results(teacher, student.eval(), batches[0])

    steps = {
        "KD": ours(KD(), teacher, student, bfloat16=False),
        "KD, bf16": ours(KD(), teacher, student, bfloat16=True),
        "BSS": ours(BSS(), teacher, student, bfloat16=False),
        "BSS, bf16": ours(BSS(), teacher, student, bfloat16=True),
        "BSS, straightforward": straightforward(teacher, student),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number, batch in enumerate(batches):
        for name, step in steps.items():
            times[name].append(seconds(lambda step=step, batch=batch, number=number: step(batch, number), device))
    medians = {name: statistics.median(each[1:]) for name, each in times.items()}  # the first round warms up
    for name, median in medians.items():
        print(f"  {name:<22}{median * 1000:8.1f} ms")
    plain = medians["BSS, straightforward"]
    print(
        f"faster than straightforward: {plain / medians['BSS']:.2f}x in fp32 (goal 1.5, on a GPU 10), "
        f"{plain / medians['BSS, bf16']:.2f}x in bf16 (goal 2.5)"
    )
    print(
        f"KD steps a BSS step costs: {medians['BSS'] / medians['KD']:.2f} in fp32 (goal 1.6), "
        f"{medians['BSS, bf16'] / medians['KD, bf16']:.2f} in bf16, "
        f"{plain / medians['KD']:.2f} straightforward"
    )
    return medians


def ours(method: Method, teacher: nn.Module, student: nn.Module, *, bfloat16: bool) -> Callable[[Batch, int], None]:
    """A step as the training loop takes it: channels last, a frozen teacher, autocast around everything."""
    student = copy.deepcopy(student).to(memory_format=torch.channels_last)
    teacher = copy.deepcopy(teacher).to(memory_format=torch.channels_last).requires_grad_(False)
    device = next(student.parameters()).device
    objective = method.build(setting(student, [teacher]))
    optimiser = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def step(batch: Batch, number: int) -> None:
        student.train()
        images = batch.images.contiguous(memory_format=torch.channels_last)
        moment = Moment(0, 80, number, torch.Generator(device).manual_seed(number))
        with torch.autocast(device.type, torch.bfloat16) if bfloat16 else nullcontext():
            for update in objective.updates(Batch(images, batch.labels, batch.indices), moment):
                optimiser.zero_grad(set_to_none=True)
                torch.stack(list(update.terms.values())).sum().backward()
                optimiser.step()

    return step


# The published algorithm, the way one writes it down at first: eager fp32 on normalised images.


def straightforward(teacher: nn.Module, student: nn.Module) -> Callable[[Batch, int], None]:
    student = copy.deepcopy(student)
    teacher = copy.deepcopy(teacher).eval()
    optimiser = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def step(batch: Batch, number: int) -> None:
        student.train()
        random.seed(number)
        with torch.no_grad():
            taught = teacher(batch.images)
        logits = student(batch.images)
        loss = F.cross_entropy(logits, batch.labels) + (4 - 3 / 80) * softened(logits, taught)
        chosen = select_bases(taught, logits, batch.labels, SIZE)
        if len(chosen) > 0:
            base = batch.labels[chosen]
            target = drawn_one_by_one(taught[chosen].softmax(dim=1), base)
            walked = walked_to_the_end(teacher, batch.images[chosen], base, target)
            with torch.no_grad():
                beyond = teacher(walked)
            loss = loss + (2 - 8 / 3 / 80) * softened(student(walked), beyond)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def softened(logits: Tensor, taught: Tensor) -> Tensor:
    return -((taught / 3).softmax(dim=1) * (logits / 3).log_softmax(dim=1)).sum(dim=1).mean()


def drawn_one_by_one(probabilities: Tensor, base: Tensor) -> Tensor:
    """Draw a class other than the base by its share of the remaining probability."""
    targets = torch.zeros_like(base)
    for n in range(len(base)):
        left = random.random() * (1 - probabilities[n, base[n]])
        for k in range(probabilities.shape[1]):
            if k != base[n]:
                targets[n] = k
                left = left - probabilities[n, k]
                if left <= 0:
                    break
    return targets


def walked_to_the_end(teacher: nn.Module, images: Tensor, base: Tensor, target: Tensor) -> Tensor:
    """Every image takes part in all steps; a mask holds those that crossed. Returns pixels."""
    std = torch.tensor(STD, device=images.device).view(1, 3, 1, 1)
    z = images / std
    for _ in range(STEPS):
        z = z.detach().requires_grad_()
        logits = teacher(z * std)
        inside = (logits.argmax(dim=1) == base).float()
        gap = logits.gather(1, base[:, None])[:, 0] - logits.gather(1, target[:, None])[:, 0]
        gap.sum().backward()
        unit = z.grad / z.grad.flatten(1).norm(dim=1).clamp_min(1e-20).view(-1, 1, 1, 1)
        z = z - (inside * 0.3 * (gap + 1e-4)).detach().view(-1, 1, 1, 1) * unit
        z = torch.minimum(z.clamp_min(0), 1 / std)
    return (z * std).detach()


def same_results(teacher: nn.Module, student: nn.Module, batch: Batch) -> None:
    """Print how far the two walks end from each other, from the same bases to the same targets."""
    with torch.no_grad():
        taught, logits = teacher(batch.images), student(batch.images)
    chosen = select_bases(taught, logits, batch.labels, SIZE)
    base, images = batch.labels[chosen], batch.images[chosen]
    target = sample_targets(taught[chosen], base, torch.Generator(images.device).manual_seed(0))
    attack = BoundaryAttack(steps=STEPS)
    with torch.no_grad():
        ends = attack(teacher, images, base, target, scale=torch.tensor(STD, device=images.device))
    plain = walked_to_the_end(copy.deepcopy(teacher), images, base, target)
    error = (ends.images - plain).abs().flatten(1).amax(dim=1)
    crossed, moved = int((ends.crossed > 0).sum()), ends.steps.float().mean()
    print(f"{len(chosen)} images attacked, {crossed} crossed, {moved:.2f} steps on average")
    print(f"pixels differ from the straightforward walk by {error.max():.1e}, {error.median():.1e} in the median image")


# What they work on


def digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    grey = torch.tensor(data.images, dtype=torch.float32).div(16).unsqueeze(1)
    return F.interpolate(grey, (32, 32), mode="bilinear").repeat(1, 3, 1, 1), torch.tensor(data.target)


def arrays(path: Path) -> tuple[Tensor, Tensor]:
    with np.load(path) as file:
        images = torch.from_numpy(file["x"]).permute(0, 3, 1, 2).float().div(255).contiguous()
        return images, torch.from_numpy(file["y"]).long()


def state(path: Path) -> dict[str, Tensor]:
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    found: dict[str, Tensor] = loaded.get("state_dict", loaded)
    return found


def warm_up(
    network: nn.Module, method: Method, teachers: list[nn.Module], images: Tensor, labels: Tensor, *, steps: int
) -> None:
    """Train `network` for a moment, in place."""
    objective = method.build(setting(network, teachers))
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3)
    network.train()
    for step in range(steps):
        rows = torch.randint(len(images), (64,), device=images.device)
        moment = Moment(0, 1, step, torch.Generator(images.device))
        for update in objective.updates(Batch(images[rows], labels[rows], rows), moment):
            optimiser.zero_grad()
            torch.stack(list(update.terms.values())).sum().backward()
            optimiser.step()


def steepen(teacher: Normalized, images: Tensor) -> None:
    """Scale the logits until the median gradient of a gap, best class less second best, has the norm `STEEPNESS`."""
    images = images.clone().requires_grad_()
    best = teacher(images).topk(2, dim=1).values
    (gradient,) = torch.autograd.grad((best[:, 0] - best[:, 1]).sum(), images)
    steepness = (gradient * teacher.std).flatten(1).norm(dim=1).median()
    with torch.no_grad():
        for parameter in teacher.network.linear.parameters():
            parameter.mul_(STEEPNESS / steepness)


def setting(student: nn.Module, teachers: list[nn.Module]) -> Setting:
    device = next(student.parameters()).device
    return Setting(student, teachers, CLASSES, (3, 32, 32), 0, torch.tensor(STD, device=device), device)


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, help="weights of a CIFAR ResNet26, a plain state dict")
    parser.add_argument("--images", type=Path, help="array file with x and y")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="default: what PyTorch chooses")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="tiny: whether it works, no numbers")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
