"""The whole path of a recipe in a minute: its real inputs are opened and looked at, then tiny networks go through."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from compressor.inputs import prepare
from compressor.methods.ce import CE
from compressor.methods.datafree import DataFree
from compressor.methods.kd import Distillation
from compressor.pipeline.run import run
from compressor.pipeline.train import check, train
from compressor.progress import Tell
from compressor.recipe import Data, Part, Recipe, Schedule, Student, Teacher, Training
from compressor.runs import record

_NETWORK = "lenet5-half"
_DATA = Data(name="digits", batch_size=647)  # 1,294 training images: two batches
_SAMPLES = 32


def smoke(recipe: Recipe, tell: Tell) -> record.Result:
    """Try a recipe: open its data and its teacher, then train, export, validate and time tiny networks as it says.

    Digits, a small LeNet and two batches take the place of data, networks and epochs; method (without its losses
    between inner outputs, whose modules a LeNet has not), exports, measures and gates are the recipe's. The values mean
    nothing, so gates are measured and not enforced. Nothing is kept.

    Raises:
        CompressError, ExporterError: as the recipe itself would.
    """
    check(recipe)
    prepare(recipe, tell)
    with tempfile.TemporaryDirectory(prefix="compress-smoke-") as place:
        folder = Path(place)
        tiny = _tiny(recipe)
        if recipe.teacher is not None:
            train(_teacher(tiny), Tell(quiet=True), out=folder / "teacher", latest=False)
            tiny = tiny.with_teachers([Teacher(checkpoint=folder / "teacher")] * len(recipe.teachers))
        tell("smoke: tiny networks from here on; their values mean nothing, and their files are removed at the end")
        own = Tell(
            tell.console, quiet=tell.quiet
        )  # keeps the log of a folder that is gone when the caller speaks again
        return run(tiny, own, out=folder / "run", latest=False)[0]


def _teacher(tiny: Recipe) -> Recipe:
    """Return a recipe for a teacher that knows enough for its boundary to be walked to, in a second or two."""
    training = Training(epochs=5, lr=0.05, schedule=Schedule(kind="constant"))
    return Recipe(
        name="teacher",
        device=tiny.device,
        data=_DATA.model_copy(update={"batch_size": 32}),
        student=Student(arch=_NETWORK),
        method=CE(),
        train=training,
    )


def _shortest(recipe: Recipe) -> dict[str, Any]:
    """Return method and train of a recipe of one stage for an epoch of tiny networks, which have other modules."""
    training = recipe.train.model_copy(
        update={
            "epochs": 1,
            "lr": min(recipe.train.lr, 0.05),
            "schedule": Schedule(kind="constant"),
            "compile": False,
            "teacher_runtime": "torch",
            "steps_per_epoch": None if recipe.method.needs.data else 2,
            "freeze": (),
            "cache_teacher": False,
        }
    )
    method = recipe.method
    if isinstance(method, Distillation):
        method = method.model_copy(update={"features": ()})
    if isinstance(method, DataFree):
        method = method.for_any_teacher()
    return {"method": method, "train": training}


def _tiny(recipe: Recipe) -> Recipe:
    """Return the recipe with digits, a tiny student, two batches, and as little measuring as there can be."""
    *earlier, last = (_shortest(part) for part in recipe.parts)
    stages = (*(Part(**each) for each in earlier), Part(**last)) if recipe.stages else ()
    measured = {
        "boundary_samples": recipe.validation.boundary_samples,
        "attack_samples": recipe.validation.attack_samples,
        "autoattack_samples": recipe.validation.autoattack_samples,
        "similarity_images": recipe.validation.similarity_images,
    }
    few = {name: min(count, _SAMPLES) for name, count in measured.items()}
    exports = tuple(
        target
        if recipe.student.quantize is not None  # which has its ranges from its training
        else target.model_copy(update={"calibration": target.calibration.model_copy(update={"samples": _SAMPLES})})
        for target in recipe.export
    )
    quick = {"warmup_s": 0.01, "duration_s": 0.05, "min_iterations": 3}
    return recipe.model_copy(
        update={
            "data": _DATA.model_copy(update=_streams(recipe.data)),
            **last,
            "stages": stages,
            "student": Student(arch=_NETWORK, quantize=recipe.student.quantize),
            "export": exports,
            "validation": recipe.validation.model_copy(update=few),
            "bench": recipe.bench.model_copy(update=quick),
            "tracking": (),
        }
    )


def _streams(data: Data) -> dict[str, str | int | None]:
    """Return the second stream of the recipe, with digits in its place."""
    labels = data.labels and _DATA.batch_size
    return {"labels": labels, "unlabelled": data.unlabelled and _DATA.name, "target": data.target and _DATA.name}
