"""TensorBoard: event files, in the run folder or beside those of other runs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from compressor.errors import EnvironmentMissing
from compressor.recipe import Recipe, TensorBoard
from compressor.runs import record
from compressor.runs.folder import Run
from compressor.tracking.values import of_epoch, of_result, parameters


class TensorBoardTracker:
    """A `Tracker` that writes with PyTorch's own `SummaryWriter`."""

    title = "TensorBoard"

    def __init__(self, config: TensorBoard, recipe: Recipe, run: Run) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch.utils.tensorboard import SummaryWriter

        folder = config.folder / run.folder.name if config.folder else run.folder / "tensorboard"
        self._parameters = parameters(recipe)
        # What a run that was cut short had written beyond its last saved epoch is hidden.
        self._writer = SummaryWriter(str(folder), purge_step=len(run.epochs()) + 1)
        rows = [f"| {name} | {value} |" for name, value in self._parameters.items()]
        self._writer.add_text("recipe", "\n".join(["| key | value |", "|---|---|", *rows]), 0)

    def epoch(self, row: Mapping[str, Any]) -> None:
        for name, value in of_epoch(row).items():
            self._writer.add_scalar(name, value, row["epoch"])
        self._writer.flush()

    def result(self, result: record.Result) -> None:
        for name, value in of_result(result).items():
            self._writer.add_scalar(f"result/{name}", value, result.training.epochs)
        self._writer.flush()

    def close(self, status: str) -> None:  # noqa: ARG002 - event files have no state
        self._writer.close()


def require() -> None:
    """See `compressor.tracking.require`."""
    if find_spec("tensorboard") is None:
        raise EnvironmentMissing(
            "the recipe tracks with TensorBoard, which is not installed", hint="pip install 'compressor[tensorboard]'"
        )
