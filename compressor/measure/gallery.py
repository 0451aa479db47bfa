"""Images worth looking at: beside the boundary, in a plane across it, and where two networks now disagree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compressor.attack import CROSSED, BoundaryAttack, BoundarySamples, as_found, sample_targets, select_bases
from compressor.data.split import Split
from compressor.errors import InputRejected
from compressor.measure.predictions import FilePredictions
from compressor.measure.scores import Floats, first

BATCH = 64


@dataclass(frozen=True, eq=False, kw_only=True)
class Pool:
    """Test images `[N, C, H, W]` to choose from, their labels `[N]`, both networks' logits `[N, K]`, and how to walk.

    `scale` is the standard deviation of each channel `[C]`, the unit of the walk.
    """

    teacher: nn.Module
    student: nn.Module
    images: Tensor
    labels: Tensor
    teacher_logits: Tensor
    student_logits: Tensor
    attack: BoundaryAttack
    scale: Tensor

    def walked(self, places: Tensor, target: Tensor) -> BoundarySamples:
        """Walk images to the teacher's boundary."""
        return self.attack(self.teacher, self.images[places], self.labels[places], target, scale=self.scale)

    def telling(self, count: int) -> Tensor:
        """Return the places of up to `count` images that training would walk first, see `attack.select_bases`."""
        return select_bases(self.teacher_logits, self.student_logits, self.labels, count)


@dataclass(frozen=True, eq=False, kw_only=True)
class BoundaryExample:
    """A test image `base` `[C, H, W]` and where the teacher's boundary is from it, `sample`, both in `[0, 1]`.

    `label` is the class it was walked away from, `target` the one it came out in, after `steps` moves. `teacher` and
    `student` are the probabilities `[K]` that each gives the sample.
    """

    base: Floats
    sample: Floats
    label: int
    target: int
    steps: int
    teacher: Floats
    student: Floats


@dataclass(frozen=True, eq=False, kw_only=True)
class Slice:
    """The plane through a base image and two of its boundary samples, and what both networks say of its points.

    `teacher` and `student` are probabilities `[S, S, K]`, the first axis along `ys` from low to high, the second along
    `xs`; both axes are distances from the base in normalised units, `[S]`. `points` are the base at (0, 0) and the two
    samples; `classes` what the teacher says of them.
    """

    xs: Floats
    ys: Floats
    teacher: Floats
    student: Floats
    points: tuple[tuple[float, float], ...]
    classes: tuple[int, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Disagreement:
    """A test image `[C, H, W]` that two networks decide differently, with the probability each gives its own class."""

    image: Floats
    label: int
    teacher: int
    teacher_probability: float
    student: int
    student_probability: float


def pool(
    teacher: nn.Module,
    student: nn.Module,
    split: Split,
    *,
    count: int,
    attack: BoundaryAttack,
    scale: Tensor,
    seed: int,
    device: torch.device,
) -> Pool:
    """Ask both networks about up to `count` images of a split, at least one, which `seed` decides."""
    parts = list(first(split, min(count, len(split)), BATCH, seed=seed))
    images, labels = (torch.cat(column).to(device) for column in zip(*parts, strict=True))
    return Pool(
        teacher=teacher,
        student=student,
        images=images,
        labels=labels,
        teacher_logits=_logits(teacher, images),
        student_logits=_logits(student, images),
        attack=attack,
        scale=scale.to(device),
    )


def boundary_examples(found: Pool, *, count: int, seed: int) -> tuple[BoundaryExample, ...]:
    """Walk the most telling images to the teacher's boundary, as training does, and return up to `count`.

    Both networks are right about them, and the ones whose probabilities differ most come first, one a class before the
    second of any. Walks that did not come out in their target are left out; `seed` decides the targets.
    """
    telling = found.telling(len(found.labels))
    order = telling[_varied(found.labels[telling].tolist())][: 2 * count]  # twice as many, since some do not cross
    if not len(order):
        return ()
    images, labels = found.images[order], found.labels[order]
    draw = torch.Generator().manual_seed(seed)
    target = sample_targets(found.teacher_logits[order].cpu(), labels.cpu(), draw).to(labels.device)
    walked = found.walked(order, target)
    says = [_probabilities(network, walked.images) for network in (found.teacher, found.student)]
    crossed = (walked.crossed == CROSSED).nonzero().flatten().tolist()[:count]
    return tuple(
        BoundaryExample(
            base=_numpy(images[place]),
            sample=_numpy(walked.images[place]),
            label=int(labels[place]),
            target=int(target[place]),
            steps=int(walked.steps[place]),
            teacher=_numpy(says[0][place]),
            student=_numpy(says[1][place]),
        )
        for place in crossed
    )


def decision_slice(found: Pool, *, side: int) -> Slice | None:
    """Ask both networks about a plane through an image and two of its samples on the teacher's boundary.

    The image is one that both networks get right, with two walks, to the teacher's second and third class, that came
    out in them and in directions far from one line. Points outside `[0, 1]` are clamped, since they are no images.

    Args:
        side: points along each axis, so that each network is asked `side²` times.

    Returns:
        None where no such image is among the first few tried, or there are only two classes.
    """
    order = found.telling(8)
    if not len(order) or found.teacher_logits.shape[1] < 3:
        return None
    images, labels = found.images[order], found.labels[order]
    others = found.teacher_logits[order].scatter(1, labels.unsqueeze(1), -torch.inf).topk(2, dim=1).indices  # [B, 2]
    ends = [found.walked(order, target) for target in others.T]
    both = (ends[0].crossed == CROSSED) & (ends[1].crossed == CROSSED)
    unit = found.scale.view(-1, 1, 1)
    for place in both.nonzero().flatten().tolist():
        base = images[place]
        ways = [((end.images[place] - base) / unit).flatten() for end in ends]
        frame = _frame(*ways)
        if frame is None:
            continue
        points = ((0.0, 0.0), *((float(way @ frame[0]), float(way @ frame[1])) for way in ways))
        xs, ys = _axes(points, side)
        grid = torch.cartesian_prod(ys, xs).flip(1).to(images)  # [S², 2] as (x, y), rows of equal y
        plane = (grid @ torch.stack(frame)).view(-1, *base.shape) * unit + base
        says = [
            _probabilities(network, plane.clamp(0, 1)).view(side, side, -1)
            for network in (found.teacher, found.student)
        ]
        return Slice(
            xs=_numpy(xs),
            ys=_numpy(ys),
            teacher=_numpy(says[0]),
            student=_numpy(says[1]),
            points=points,
            classes=(int(labels[place]), *map(int, others[place])),
        )
    return None


def disagreements(teacher: FilePredictions, student: FilePredictions) -> NDArray[np.int64]:
    """Return the places of the images that two files decide differently, where both are surest first."""
    places = np.flatnonzero(teacher.classes != student.classes)
    surer = np.minimum(teacher.probabilities, student.probabilities)[places]
    return places[np.argsort(-surer, kind="stable")]


def shown_disagreements(
    teacher: FilePredictions, student: FilePredictions, split: Split, places: Sequence[int]
) -> tuple[Disagreement, ...]:
    """Fetch the images at `places` of the split that the answers are of.

    Raises:
        InputRejected: the answers are of other images, or some of the images cannot be read.
    """
    if not np.array_equal(split.labels.cpu().numpy(), student.labels):
        raise InputRejected("the test images are not those that the answers are about", hint="compress validate")
    picked = torch.tensor(list(places), dtype=torch.int64)
    some = replace(split, rows=split.rows[picked], labels=split.labels[picked.to(split.labels.device)])
    images = [image for batch in some.batches(BATCH) for image in batch.images]
    if len(images) != len(places):
        raise InputRejected(f"{len(places) - len(images)} of the images cannot be read any more")
    return tuple(
        Disagreement(
            image=_numpy(image),
            label=int(student.labels[place]),
            teacher=int(teacher.classes[place]),
            teacher_probability=float(teacher.probabilities[place]),
            student=int(student.classes[place]),
            student_probability=float(student.probabilities[place]),
        )
        for image, place in zip(images, places, strict=True)
    )


def affordable(macs: int | None, device: torch.device) -> tuple[int, int]:
    """Return how many images a pool and how many points an axis of a slice may have, to take seconds and not minutes.

    Args:
        macs: multiply-accumulates that both networks need for one image; None where they are not known.
    """
    times = int((1e11 if device.type == "cpu" else 1e13) / max(macs or 1e8, 1))  # that both may be asked
    return min(512, max(32, times)), min(97, max(17, isqrt(times) | 1))


def _varied(labels: Sequence[int]) -> list[int]:
    """Return the places of labels in an order that has the first of each class, then the second of each, and so on."""
    seen: dict[int, int] = {}
    turns = []
    for place, label in enumerate(labels):
        seen[label] = seen.get(label, 0) + 1
        turns.append((seen[label], place))
    return [place for _, place in sorted(turns)]


def _frame(first_way: Tensor, second_way: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return two orthonormal directions of the plane, None where the ways are nearly one line (below 10 degrees)."""
    across = first_way / first_way.norm()
    rest = second_way - (second_way @ across) * across
    return None if rest.norm() < 0.17 * second_way.norm() else (across, rest / rest.norm())


def _axes(points: Sequence[tuple[float, float]], side: int) -> tuple[Tensor, Tensor]:
    """Return the coordinates of a square with the points in its middle half, `side` along each axis."""
    ends = [(min(values), max(values)) for values in zip(*points, strict=True)]
    span = max(high - low for low, high in ends)
    middles = [(low + high) / 2 for low, high in ends]
    across, up = (torch.linspace(middle - span, middle + span, side) for middle in middles)
    return across, up


def _logits(network: nn.Module, images: Tensor) -> Tensor:
    with as_found(network), torch.no_grad():
        return torch.cat([network(part).float() for part in images.split(BATCH)])


def _probabilities(network: nn.Module, images: Tensor) -> Tensor:
    return _logits(network, images).softmax(dim=1)


def _numpy(values: Tensor) -> Floats:
    array: Floats = values.detach().cpu().contiguous().numpy()
    return array
