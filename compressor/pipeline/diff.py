"""Two artifacts side by side: where they decide differently, on the test images and near them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from compressor.artifacts.opening import facts
from compressor.data import Dataset
from compressor.difference import SURE, TIE, Found, Given, PairLogits, Search, Side, compare_given, search
from compressor.difference.given import images_of
from compressor.errors import GateFailed
from compressor.files import replacing, write_text
from compressor.machine.hardware import hardware, versions
from compressor.measure.scores import Labels, Predictions, score
from compressor.pipeline.diff_inputs import Guide, Opening, Pair, open_pair
from compressor.progress import Tell
from compressor.recipe import Data
from compressor.report import difference as report
from compressor.report.difference_html import GALLERY, Shown, page
from exporters import Runner

SAMPLES = 256
EPSILONS = (1.0, 2.0, 4.0, 8.0)
_PATIENCE_S = 10.0  # between two words on how far the search is


@dataclass(frozen=True)
class Options:
    """How to open the two and how to search; `epsilons` are changes of a pixel in 1/255."""

    samples: int = SAMPLES
    epsilons: tuple[float, ...] = EPSILONS
    seed: int = 0
    opening: Opening = field(default_factory=Opening)


@dataclass(frozen=True)
class Outcome:
    """The record, and the images behind it."""

    record: report.Difference
    data: Dataset
    given: Given
    search: Search | None


def diff(a: Path, b: Path, data: Data, tell: Tell, options: Options | None = None) -> Outcome:
    """Compare two artifacts: checkpoints, students, run folders (their students), ONNX, OpenVINO, TensorRT plans.

    Raises:
        UsageError, InputRejected, EnvironmentMissing, RuntimeMissing: as `open_pair`.
        InputRejected: there are no test images, or an artifact fails.
    """
    options = options or Options()
    with open_pair(a, b, data, tell, options.opening) as pair:
        return _compared(pair, tell, options)


def _compared(pair: Pair, tell: Tell, options: Options) -> Outcome:
    one, other = (Side(runner, guide.network) for runner, guide in zip(pair.runners, pair.guides, strict=True))
    given = compare_given(one, other, pair.data.test)
    searched: Search | None = None
    if options.samples > 0:
        tell(f"searching from up to {options.samples:,} images on which both agree; {_way(pair.guides)}")
        searched = search(
            one,
            other,
            pair.data.test,
            given,
            samples=options.samples,
            epsilon=max(options.epsilons) / 255,
            std=torch.tensor(pair.data.std),
            seed=options.seed,
            note=_Progress(tell),
        )
        if searched is None:
            tell("they agree on no image, so there is nothing to search from")
    return Outcome(_record(pair, given, searched, options), pair.data, given, searched)


def write_gallery(outcome: Outcome, path: Path) -> None:
    """Write the images on which they differ as one HTML page that needs no other file."""
    record, given, searched = outcome.record, outcome.given, outcome.search
    flips = given.flips[:GALLERY]
    images = images_of(outcome.data.test, given.indices[flips])
    shown = [Shown(flip, image, None) for flip, image in zip(record.given.flips, images, strict=False)]
    nearest: tuple[Shown, ...] = ()
    surest: tuple[Shown, ...] = ()
    if searched is not None and record.searched is not None:
        nearest, surest = (
            tuple(
                Shown(find, searched.images[found.bases[row]], found.images[row])
                for find, row in zip(finds[:GALLERY], order, strict=False)
            )
            for finds, found, order in (
                (record.searched.nearest, searched.nearest, by_distance(searched.nearest)),
                (record.searched.surest, searched.surest, by_surety(searched.surest)),
            )
        )
    write_text(path, page(record, flips=shown, nearest=nearest, surest=surest))


def write_images(outcome: Outcome, path: Path) -> None:
    """Write all images on which they differ into an `.npz`, in the order of the record; see docs/diff.md."""
    given, searched = outcome.given, outcome.search
    columns: dict[str, NDArray[np.generic]] = {
        "given_images": images_of(outcome.data.test, given.indices[given.flips]),
        "given_index": given.indices[given.flips],
        "given_label": given.labels[given.flips],
        "given_logits_a": given.answers.a[given.flips],
        "given_logits_b": given.answers.b[given.flips],
        "classes": np.array(outcome.data.classes),
    }
    if searched is not None:
        for name, found, order in (
            ("nearest", searched.nearest, by_distance(searched.nearest)),
            ("surest", searched.surest, by_surety(searched.surest)),
        ):
            bases = found.bases[order]
            columns |= {
                f"{name}_images": found.images[order],
                f"{name}_bases": searched.images[bases],
                f"{name}_index": searched.indices[bases],
                f"{name}_label": searched.labels[bases],
                f"{name}_logits_a": found.answers.a[order],
                f"{name}_logits_b": found.answers.b[order],
                f"{name}_linf": found.linf[order],
                f"{name}_l2": found.l2[order],
            }
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **columns)


def enforce_agreement(record: report.Difference, least: float | None) -> None:
    """Hold a promise on the test images.

    Raises:
        GateFailed: A and B agree on a smaller fraction of them than `least`.
    """
    given = record.given
    if least is not None and given.agreement < least:
        raise GateFailed(
            f"A and B agree on {given.agreement:.4f} of {given.images:,} images, promised at least {least:g}",
            hint="--html FILE shows the images on which they differ",
        )


def by_distance(found: Found) -> NDArray[np.int64]:
    """Return the rows of finds, the nearest first."""
    return np.argsort(found.linf, kind="stable")


def by_surety(found: Found) -> NDArray[np.int64]:
    """Return the rows of finds, first the one where the less sure artifact is surest."""
    ours, theirs = (each.max(axis=1) for each in found.answers.probabilities)
    return np.argsort(-np.minimum(ours, theirs), kind="stable")


# The record


def _record(pair: Pair, given: Given, searched: Search | None, options: Options) -> report.Difference:
    data = pair.data
    first = _given(given, data.classes)
    second = None if searched is None else _searched(searched, data.classes, options)
    logits = (given.answers.a, given.answers.b)
    a, b = (
        _side(runner, guide, Predictions(said, given.labels))
        for runner, guide, said in zip(pair.runners, pair.guides, logits, strict=True)
    )
    return report.Difference(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        summary=report.headline(first, second),
        a=a,
        b=b,
        data=report.Images(
            source=data.source, fingerprint=data.fingerprint, classes=len(data.classes), test=len(data.test)
        ),
        given=first,
        searched=second,
        tie=TIE,
        sure=SURE,
        versions=versions(),
        hardware=hardware(),
    )


def _side(runner: Runner, guide: Guide, predictions: Predictions) -> report.Side:
    scores = score(predictions)
    return report.Side(**facts(runner), gradients=guide.said, top1=scores.top1, top1_ci=scores.top1_interval)


def _given(given: Given, classes: Sequence[str]) -> report.GivenImages:
    answers, scores = given.answers, given.b_against_a
    wrong = [answers.differ & (decided != given.labels) for decided in answers.decisions]
    counted, confident = int(answers.counted.sum()), int(answers.confident.sum())
    low, high = given.b_by_a.top1_interval
    assert scores.broken is not None
    assert scores.fixed is not None
    assert scores.drop is not None
    assert scores.drop_interval is not None
    flips = _flips(answers[given.flips], given.labels[given.flips], given.indices[given.flips], classes)
    return report.GivenImages(
        images=len(answers),
        agreement=given.b_by_a.top1 / 100,
        agreement_ci=(low / 100, high / 100),
        differ=int(answers.differ.sum()),
        ties=int(answers.tied.sum()),
        close=counted - confident,
        confident=confident,
        only_a_right=scores.broken,
        only_b_right=scores.fixed,
        neither_right=int((wrong[0] & wrong[1]).sum()),
        accuracy_drop=scores.drop,
        accuracy_drop_ci=scores.drop_interval,
        pairs=tuple(report.Pair(a=classes[a], b=classes[b], count=count) for a, b, count in given.pairs),
        flips=tuple(report.Flip(**each) for each in flips),
    )


def _searched(searched: Search, classes: Sequence[str], options: Options) -> report.Searched:
    nearest, surest, total = searched.nearest, searched.surest, len(searched)
    within = []
    for epsilon in sorted(options.epsilons):
        differ = int((nearest.linf <= epsilon).sum())
        to_a, to_b = (int((way <= epsilon).sum()) for way in (searched.boundary_a, searched.boundary_b))
        within.append(
            report.Within(epsilon=epsilon, differ=differ, share=differ / total, boundary_a=to_a, boundary_b=to_b)
        )
    return report.Searched(
        images=total,
        seed=options.seed,
        way="gradients" if searched.guided else "lines",
        found=len(nearest.bases),
        share=len(nearest.bases) / total,
        linf=_spread(nearest.linf),
        l2=_spread(nearest.l2),
        boundary_a=_spread(searched.boundary_a),
        boundary_b=_spread(searched.boundary_b),
        boundaries_apart=_spread(searched.apart),
        within=tuple(within),
        confident=int(surest.answers.confident.sum()),
        confident_within=max(options.epsilons) if searched.guided else None,
        nearest=_finds(searched, nearest, by_distance(nearest), classes),
        surest=_finds(searched, surest, by_surety(surest), classes),
    )


def _finds(searched: Search, found: Found, order: NDArray[np.int64], classes: Sequence[str]) -> tuple[report.Find, ...]:
    bases = found.bases[order]
    flips = _flips(found.answers[order], searched.labels[bases], searched.indices[bases], classes)
    return tuple(
        report.Find(**flip, base=classes[decided], linf=linf, l2=l2)
        for flip, decided, linf, l2 in zip(
            flips, searched.decided[bases], found.linf[order].tolist(), found.l2[order].tolist(), strict=True
        )
    )


def _flips(answers: PairLogits, labels: Labels, indices: Labels, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the fields of `report.Flip` for images on which the decisions differ."""
    sides = []
    for decided, probabilities, margins in zip(answers.decisions, answers.probabilities, answers.margins, strict=True):
        highest = probabilities.max(axis=1)
        sides.append(
            [
                report.Verdict(decision=classes[choice], probability=probability, margin=margin)
                for choice, probability, margin in zip(decided, highest.tolist(), margins.tolist(), strict=True)
            ]
        )
    right = [
        "a" if a == label else "b" if b == label else None
        for a, b, label in zip(*answers.decisions, labels, strict=True)
    ]
    kinds = np.select([answers.tied, answers.confident], ["tie", "confident"], "close").tolist()
    return [
        {"index": index, "label": classes[label], "kind": kind, "right": who, "a": a, "b": b}
        for index, label, kind, who, a, b in zip(indices.tolist(), labels, kinds, right, *sides, strict=True)
    ]


def _spread(distances: NDArray[np.float64]) -> report.Spread | None:
    known = distances[np.isfinite(distances)]
    if not len(known):
        return None
    return report.Spread(images=len(known), minimum=float(known.min()), median=float(np.median(known)))


def _way(guides: Sequence[Guide]) -> str:
    if all(guide.network is None for guide in guides):
        return "neither has gradients, so along lines to other images; --guide FILE lends those of a network"
    borrowed = [f"{name} has {guide.said or 'those of the other'}" for name, guide in zip("AB", guides, strict=True)]
    return "led by gradients" if all(guide.said == "own" for guide in guides) else f"gradients: {', '.join(borrowed)}"


class _Progress:
    def __init__(self, tell: Tell) -> None:
        self._tell, self._said = tell, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if done < total and time.monotonic() - self._said > _PATIENCE_S:
            self._said = time.monotonic()
            self._tell(f"searched from {done:,} of {total:,} images")
