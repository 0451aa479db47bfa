"""Calibration: the range of each activation over the calibration images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from exporters.errors import ArtifactRejected
from exporters.onnx.graph import serialised
from exporters.quantize.scheme import SCHEMES, Method, Recipe
from exporters.quantize.tools import quantising


def ranges(
    source: Path,
    model: ModelProto,
    images: NDArray[np.float32],
    *,
    size: int,
    recipe: Recipe,
    method: Method,
    known: Mapping[str, tuple[float, float]],
    folder: Path,
) -> Any:
    """Return ONNX Runtime's record of the range of each activation of `model`, which `source` was made into.

    Those in `known` follow from what the tensors are, whatever the images.

    A last chunk that is too small is filled up with the first images: all are used, and none that are not there.
    """
    from onnxruntime.quantization import CalibrationMethod, create_calibrator
    from onnxruntime.quantization.calibrate import TensorData

    scheme = SCHEMES[recipe]
    methods = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }
    prepared = folder / "prepared.onnx"
    prepared.write_bytes(serialised(model))
    with quantising(source):
        calibrator = create_calibrator(
            prepared,
            sorted(scheme.layers | scheme.followers),
            augmented_model_path=str(folder / "augmented.onnx"),
            calibrate_method=methods[method],
            extra_options={"symmetric": scheme.symmetric},
        )
        calibrator.infer_session = _Watched(calibrator.infer_session, source)
        for start in range(0, len(images), size):
            chunk = images.take(range(start, start + size), axis=0, mode="wrap")
            calibrator.collect_data(_Feed(calibrator.infer_session.get_inputs()[0].name, chunk))
        found = calibrator.compute_data()
    for name, (low, high) in known.items():
        found[name] = TensorData(lowest=np.float32(low), highest=np.float32(high))
    return found


class _Feed:
    """One batch, as ONNX Runtime's calibrators take data. All at once, they would keep all activations in memory."""

    def __init__(self, name: str, images: NDArray[np.float32]) -> None:
        self.batches = iter([{name: np.ascontiguousarray(images)}])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self.batches, None)


class _Watched:
    """A calibrator's session that refuses activations that are not finite. The calibrators skip them unseen."""

    def __init__(self, session: Any, source: Path) -> None:
        self.session, self.source = session, source
        self.get_inputs, self.get_outputs = session.get_inputs, session.get_outputs

    def run(self, names: Sequence[str] | None, feed: Mapping[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        activations: list[NDArray[np.float32]] = self.session.run(names, feed)
        for output, values in zip(self.get_outputs(), activations, strict=True):
            if not np.isfinite(values).all():
                tensor = output.name.removesuffix("_ReduceMin").removesuffix("_ReduceMax")
                raise ArtifactRejected(
                    f"{self.source} computes values that are not finite on the calibration images, in {tensor!r}",
                    hint="validate the fp32 graph first",
                )
        return activations
