"""What a recipe must name before it can run, and what it names without any use."""

from compressor.choices import NOTHING
from compressor.errors import UsageError
from compressor.methods import Needs
from compressor.recipe.schema.data import Data
from compressor.recipe.schema.whole import Recipe


def require_runnable(recipe: Recipe) -> None:
    """See that a recipe names all that a run needs, and nothing that its method has no use for.

    Flags may fill what a shared recipe leaves open.

    Raises:
        UsageError: teachers are missing or too many, there is no data set and no teacher to tell it, or the recipe has
            a second stream that the method does not take, or lacks what it does.
    """
    needs, name = recipe.method.needs, f"method {recipe.method.kind}"
    _require_teachers(needs, name, len(recipe.teachers))
    if recipe.data.name is None and recipe.teacher is None:
        raise UsageError(
            "the recipe names no data set, and no teacher that could tell it",
            hint="--data cifar10, --data folder:PATH, or data: {name: ...} in the recipe",
        )
    if needs.data and recipe.data.name == NOTHING:
        raise UsageError(
            f"{name} learns from images, and the data are {NOTHING}",
            hint="--data NAME, or --method dfad, dfq-akd or qimera, which make their own",
        )
    _require_streams(needs, name, recipe.data)
    if needs.views > 1 and recipe.data.augment == "none":
        raise UsageError(
            f"{name} compares {needs.views} views of an image, and without augmentation they are the same",
            hint="--set data.augment=auto",
        )


def _require_teachers(needs: Needs, name: str, given: int) -> None:
    if needs.teachers and not given:
        raise UsageError(
            f"{name} learns from {_teachers(needs.teachers)}, and the recipe names none",
            hint="--teacher FILE, or teacher: {checkpoint: FILE} in the recipe",
        )
    if given < needs.teachers:
        raise UsageError(
            f"{name} learns from {_teachers(needs.teachers)}, and the recipe names {given}",
            hint="teachers: [{checkpoint: FILE}, {checkpoint: FILE}] in the recipe",
        )
    if needs.most is not None and given > max(needs.most, 1):  # the first is what results are compared with
        most = f"{_teachers(needs.most)} at most" if needs.most > 1 else _teachers(needs.most)
        raise UsageError(f"{name} learns from {most}, and the recipe names {given}", hint="leave the others out")


def _require_streams(needs: Needs, name: str, data: Data) -> None:
    if needs.unlabelled and data.unlabelled is None and data.labels is None:
        raise UsageError(
            f"{name} learns from unlabelled images too, and the recipe names none",
            hint="--unlabelled folder:PATH, or --labels 100 to use the labels of so many images alone",
        )
    if not needs.unlabelled and data.unlabelled is not None:
        raise UsageError(f"{name} has no use for unlabelled images", hint="leave out data.unlabelled")
    if needs.target and data.target is None:
        raise UsageError(
            f"{name} adapts to another domain, and the recipe names none", hint="--target folder:PATH, or a data set"
        )
    if not needs.target and data.target is not None:
        raise UsageError(
            f"{name} has no use for a target domain",
            hint="leave out data.target; compress validate FILE --data NAME measures what is trained on other images",
        )


def _teachers(count: int) -> str:
    return {0: "no teacher", 1: "a teacher"}.get(count, f"{count} teachers")
