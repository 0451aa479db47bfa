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
    parts = recipe.parts
    for part in parts:
        _require_given(part)
    unused = [_unused(part) for part in parts]
    for what, said in unused[-1].items():
        if all(what in each for each in unused):  # what one stage has no use for, another may have
            raise UsageError(said[0], hint=said[1])


def _require_given(recipe: Recipe) -> None:
    """See that a recipe, of one stage, has all that its method needs."""
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
    if needs.views > 1 and not recipe.data.augment.moves:
        raise UsageError(
            f"{name} compares {needs.views} views of an image, and without augmentation they are the same",
            hint="--set data.augment=auto",
        )
    if recipe.data.augment.mixes:
        _require_mixable(recipe, name)
    if recipe.train.cache_teacher:
        _require_cacheable(recipe, name)


def _require_mixable(recipe: Recipe, name: str) -> None:
    """See that nothing asks for the one label of an image that is mixed of two."""
    hint = "leave out data.augment.mixup and data.augment.cutmix"
    if not recipe.method.needs.mixed:
        raise UsageError(f"{name} needs the true label of each image, and mixed images have two", hint=hint)
    for loss in (getattr(recipe.method, "soft", None), *getattr(recipe.method, "features", ())):
        if getattr(loss, "labelled", False):
            raise UsageError(
                f"the loss {loss.kind} needs the true label of each image, and mixed images have two", hint=hint
            )


def _require_cacheable(recipe: Recipe, name: str) -> None:
    """See that a teacher would say of each image the same in every epoch, and is asked for nothing else."""
    hint = "leave out train.cache_teacher"
    if recipe.data.augment.moves or recipe.data.augment.mixes:
        raise UsageError(
            "train.cache_teacher keeps one answer an image, and augmented images are others in every epoch",
            hint=f"--set data.augment=none, or {hint}",
        )
    if not recipe.method.needs.cached:
        raise UsageError(f"train.cache_teacher is not for {name}, which asks its teacher more than logits", hint=hint)
    for key in ("features", "intermediate"):
        if getattr(recipe.method, key, None):
            raise UsageError(
                f"train.cache_teacher keeps logits, and method.{key} compares inner outputs of the teacher", hint=hint
            )


def _unused(recipe: Recipe) -> dict[str, tuple[str, str]]:
    """Return what a recipe, of one stage, names and its method has no use for: a sentence and a hint for each."""
    needs, name, given = recipe.method.needs, f"method {recipe.method.kind}", len(recipe.teachers)
    found = {}
    if needs.most is not None and given > max(needs.most, 1):  # the first is what results are compared with
        most = f"{_teachers(needs.most)} at most" if needs.most > 1 else _teachers(needs.most)
        found["teachers"] = (f"{name} learns from {most}, and the recipe names {given}", "leave the others out")
    if not needs.unlabelled and recipe.data.unlabelled is not None:
        found["unlabelled"] = (f"{name} has no use for unlabelled images", "leave out data.unlabelled")
    if not needs.target and recipe.data.target is not None:
        found["target"] = (
            f"{name} has no use for a target domain",
            "leave out data.target; compress validate FILE --data NAME measures what is trained on other images",
        )
    return found


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


def _require_streams(needs: Needs, name: str, data: Data) -> None:
    if needs.unlabelled and data.unlabelled is None and data.labels is None:
        raise UsageError(
            f"{name} learns from unlabelled images too, and the recipe names none",
            hint="--unlabelled folder:PATH, or --labels 100 to use the labels of so many images alone",
        )
    if needs.target and data.target is None:
        raise UsageError(
            f"{name} adapts to another domain, and the recipe names none", hint="--target folder:PATH, or a data set"
        )


def _teachers(count: int) -> str:
    return {0: "no teacher", 1: "a teacher"}.get(count, f"{count} teachers")
