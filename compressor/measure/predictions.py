"""`predictions.npz`: what every file of a run says of each test image, kept so that it can be looked at later."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compressor.errors import InputRejected
from compressor.files import replacing
from compressor.measure.scores import Predictions, confidence


@dataclass(frozen=True, eq=False, kw_only=True)
class FilePredictions:
    """What one file, known by its `sha256`, says of `N` images with these `labels`: top classes and probabilities."""

    sha256: str
    labels: NDArray[np.int32]
    classes: NDArray[np.int32]
    probabilities: NDArray[np.float32]

    @classmethod
    def of(cls, predictions: Predictions, sha256: str) -> FilePredictions:
        """Keep the top class of each row of logits, the lower of two equal ones, and its softmax."""
        return cls(
            sha256=sha256,
            labels=predictions.labels.astype(np.int32),
            classes=predictions.logits.argmax(axis=1).astype(np.int32),
            probabilities=confidence(predictions.logits).astype(np.float32),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class StoredPredictions:
    """The answers of files, by name, to the same test images in the same order.

    `fingerprint` is the data set's: as long as it is the same, so are the images and their order.
    """

    fingerprint: str
    files: Mapping[str, FilePredictions]

    @property
    def labels(self) -> NDArray[np.int32]:
        """The true class of each image, `[N]`."""
        return next(iter(self.files.values())).labels

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        columns: dict[str, NDArray[np.generic]] = {
            "fingerprint": np.array(self.fingerprint),
            "labels": self.labels,
            "files": np.array(list(self.files), dtype=np.str_),
            "sha256": np.array([answer.sha256 for answer in self.files.values()], dtype=np.str_),
            "classes": np.array([answer.classes for answer in self.files.values()], np.int32),
            "probabilities": np.array([answer.probabilities for answer in self.files.values()], np.float32),
        }
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **columns)

    @classmethod
    def read(cls, path: Path) -> StoredPredictions:
        """Read what `write` wrote; nothing in the file is executed.

        Raises:
            InputRejected: there is none, or it is damaged.
        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
                columns = {name: kept[name] for name in kept.files}
            labels, classes, probabilities = (columns[name] for name in ("labels", "classes", "probabilities"))
            shape = (len(columns["files"]), len(labels))
            if (
                not shape[0]
                or classes.shape != shape
                or probabilities.shape != shape
                or len(columns["sha256"]) != shape[0]
            ):
                raise ValueError("its parts do not fit each other")
            files = {
                str(name): FilePredictions(sha256=str(digest), labels=labels, classes=top, probabilities=sure)
                for name, digest, top, sure in zip(
                    columns["files"], columns["sha256"], classes, probabilities, strict=True
                )
            }
            return cls(fingerprint=str(columns["fingerprint"]), files=files)
        except FileNotFoundError:
            raise InputRejected(f"no such file: {path}", hint=f"compress validate {path.parent}") from None
        except (OSError, ValueError, KeyError, TypeError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise InputRejected(
                f"{path} is damaged: {error}", hint=f"write it again: compress validate {path.parent}"
            ) from error
