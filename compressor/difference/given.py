"""The first half of a comparison: both artifacts answer the images that there are."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from compressor.data import Split
from compressor.difference.sides import PairLogits, Side
from compressor.errors import InputRejected
from compressor.measure.scores import Floats, Labels, Predictions, Scores, infer, score


@dataclass(frozen=True, kw_only=True)
class Given:
    """The answers on a split. `indices` `[N]` are the places of the images in it; a damaged file has none."""

    answers: PairLogits
    labels: Labels
    indices: NDArray[np.int64]
    b_against_a: Scores  # B graded by the labels and compared with A
    b_by_a: Scores  # B graded by A's decisions: its accuracy is the agreement, its interval that of the agreement

    @property
    def pairs(self) -> list[tuple[int, int, int]]:
        """How often A decides for one class and B for another: `(a, b, count)`, the most frequent first."""
        a, b = (decided[self.answers.differ].tolist() for decided in self.answers.decisions)
        counts = Counter(zip(a, b, strict=True))
        return [(*pair, count) for pair, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]

    @property
    def flips(self) -> NDArray[np.int64]:
        """Rows where they differ, the surest difference first: by the smaller of the two margins."""
        rows = np.flatnonzero(self.answers.differ)
        weakest = np.minimum(*self.answers[rows].margins)
        return rows[np.argsort(-weakest, kind="stable")]


def compare_given(a: Side, b: Side, split: Split, batch_size: int = 256) -> Given:
    """Ask both artifacts about every image of a split.

    Raises:
        InputRejected: the split is empty, or an artifact fails.
    """
    if len(split) == 0:
        raise InputRejected("there are no test images to compare on", hint="a test/ or val/ folder beside train/")
    columns: list[tuple[Floats, Floats, Labels, NDArray[np.int64]]] = []
    for batch in split.batches(batch_size):
        images = batch.images.cpu().contiguous().numpy()
        ours, theirs = (infer(side.runner, images, batch_size) for side in (a, b))
        columns.append((ours, theirs, batch.labels.cpu().numpy(), batch.indices.cpu().numpy()))
    ours, theirs, labels, indices = (np.concatenate(column) for column in zip(*columns, strict=True))
    return Given(
        answers=PairLogits(ours, theirs, (float(ours.std()), float(theirs.std()))),
        labels=labels,
        indices=indices,
        b_against_a=score(Predictions(theirs, labels), teacher=Predictions(ours, labels)),
        b_by_a=score(Predictions(theirs, ours.argmax(axis=1))),
    )


def images_of(split: Split, indices: NDArray[np.int64]) -> Floats:
    """Return images of a split by their places in it: `[N, C, H, W]`."""
    wanted = torch.from_numpy(indices)
    chosen = replace(split, rows=split.rows[wanted], labels=split.labels[wanted.to(split.labels.device)])
    parts = [batch.images.cpu().contiguous().numpy() for batch in chosen.batches(256)]
    return np.concatenate(parts) if parts else np.zeros((0, 0, 0, 0), np.float32)
