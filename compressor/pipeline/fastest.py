"""What makes a training the fastest on this machine, measured before its first step where the recipe leaves it open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from compressor.inputs import Prepared
from compressor.pipeline.compiling import compiling_pays
from compressor.pipeline.teachers import fastest_runtime
from compressor.progress import Tell
from compressor.training.distributed import ALONE

# Keys of `train`, in this order: a step is compiled with the teachers as they will be asked.
_MEASURED: Mapping[str, Callable[[Prepared, int, Tell], str | bool]] = {
    "teacher_runtime": fastest_runtime,
    "compile": compiling_pays,
}


def with_fastest(prepared: Prepared, tell: Tell) -> Prepared:
    """Return the inputs with each `auto` of a `train` section replaced by what is fastest here, stage by stage.

    What is chosen stands in the recipe that is stored with the run: one that is gone on with computes in the same way.
    All processes do as the first has measured.
    """
    group, parts = prepared.group, prepared.recipe.parts
    if not any(getattr(part.train, key) == "auto" for part in parts for key in _MEASURED):
        return prepared
    trains = []
    for stage, part in enumerate(parts):
        here = replace(prepared, recipe=part, group=ALONE)
        for key, measure in _MEASURED.items():
            if getattr(here.recipe.train, key) == "auto":
                chosen = group.first(measure(here, stage, tell) if group.leads else "")
                train = here.recipe.train.model_copy(update={key: chosen})
                here = replace(here, recipe=here.recipe.model_copy(update={"train": train}))
        trains.append(here.recipe.train)
    return replace(prepared, recipe=prepared.recipe.with_training(trains))
