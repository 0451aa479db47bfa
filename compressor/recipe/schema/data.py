"""The images of a recipe."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PlainSerializer,
    PositiveInt,
    WithJsonSchema,
    model_validator,
)

from compressor.choices import DATA, EMBEDDED, FILES, FOLDER, HF, NOTHING, OFFICIAL, WDS
from compressor.errors import UsageError
from compressor.methods import Config
from compressor.methods.protocol import refusal
from compressor.recipe.schema.augment import Augment, Augmented

LARGEST_BATCH, SMALLEST_BATCH = 256, 16
LEAST_STEPS = 32  # of an epoch, where the size of a step is not given


def _both_sides(given: Any) -> Any:
    """Return one number as height and width; other values are left for the type to take or refuse."""
    if isinstance(given, int) and not isinstance(given, bool):
        return given, given
    return tuple(given) if isinstance(given, list) else given


def _shortest(size: tuple[int, int]) -> int | list[int]:
    return size[0] if size[0] == size[1] else list(size)


# Height and width of images: one number where they are alike, [240, 320] where they are not.
_SIDE = {"type": "integer", "exclusiveMinimum": 0}
ImageSize = Annotated[
    tuple[PositiveInt, PositiveInt],
    BeforeValidator(_both_sides),
    PlainSerializer(_shortest),
    WithJsonSchema(
        {
            "anyOf": [
                _SIDE,
                {"type": "array", "items": _SIDE, "minItems": 2, "maxItems": 2},
            ]
        }
    ),
]


class Data(Config):
    """Where images come from; without a name, from where the teacher says."""

    name: Annotated[str, Field(min_length=1, json_schema_extra={"format": "data-name"})] | None = Field(
        default=None,
        description=f"{DATA}; null: as the teacher says",
    )
    root: Path | None = Field(
        default=None, description="folder with the files of a named data set; looked up when not given"
    )
    validation: Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.1, description="training images held out: a count, or a fraction of the training split"
    )
    test: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.2, description="fraction that becomes the test split when the data has none of its own"
    )
    batch_size: PositiveInt | None = Field(
        default=None,
        description=f"training images a step; null: {LARGEST_BATCH}, less for a set so small that an epoch would have "
        f"fewer than {LEAST_STEPS} steps, but at least {SMALLEST_BATCH}",
    )
    image_size: ImageSize | None = Field(
        default=None,
        description="height and width, [240, 320] where they differ; required for images of mixed sizes",
    )
    channels: Literal[1, 3] | None = Field(
        default=None, description="convert encoded images to grey (1) or colour (3); required for mixed ones"
    )
    augment: Augmented = Field(
        default=Augment(), description="how training images are changed; a word alone is the kind, the rest left out"
    )
    train_size: ImageSize | None = Field(
        default=None,
        description="of the crops of photo that are trained on, written as image_size is; null: as image_size, which "
        "all is measured and exported at",
    )
    class_order: Literal["natural"] | Path | Annotated[tuple[str, ...], Field(min_length=2)] | None = Field(
        default=None,
        description="natural (2 before 10), all names in their order, or a file of them; null: as the data have it, "
        "which for folders is the order of their names",
    )
    image: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description=f"of {HF}: the column of the images; of {WDS}: the ending of their members, such as jpg; null: the "
        "only one that fits",
    )
    label: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description=f"of {HF}: the column of the labels; of {WDS}: the ending of their members, or json.KEY for a key "
        "of one that is JSON; null: the only column that fits, cls",
    )
    cache: Path | None = Field(
        default=None,
        description="folder where the decoded images are kept, so that later runs do not decode them; made anew when "
        "they change",
    )
    workers: NonNegativeInt = Field(default=2, description="loading processes, for data that is streamed")
    unlabelled: Annotated[str, Field(min_length=1, json_schema_extra={"format": "data-name"})] | None = Field(
        default=None,
        description="a second stream, for methods that use one: the name of a data set, whose training images it "
        "gives, or folder:PATH, all images below it",
    )
    check: Annotated[str, Field(min_length=1, json_schema_extra={"format": "data-name"})] | None = Field(
        default=None,
        description="of none: real images for measuring alone, the name of a data set (its test images) or folder:PATH "
        "(all of them); nothing is trained on or chosen by them",
    )
    labels: PositiveInt | None = Field(
        default=None,
        description="training images that keep their labels, as many of each class; the others are the second stream, "
        "where unlabelled names no other",
    )
    labels_seed: NonNegativeInt = Field(default=0, description="which ones keep them; not the seed of the training")
    target: Annotated[str, Field(min_length=1, json_schema_extra={"format": "data-name"})] | None = Field(
        default=None,
        description="another domain for methods that adapt to one, a data set's name or folder:PATH: the second stream "
        "is its training images; labels that it has are for the final score alone",
    )
    unlabelled_batch: PositiveInt | None = Field(
        default=None, description="images of the second stream, a step; null: batch_size"
    )

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        for key, reason in self._idle():
            raise refusal(reason, key=key)
        if self.unlabelled is not None and self.target is not None:
            raise refusal("is a second stream already", key="target", hint="leave out data.unlabelled or data.target")
        return self

    def called(self, name: str) -> Self:
        """Return the section for the data set that was found out, such as the teacher's.

        Raises:
            UsageError: it says what has no effect on that set.
        """
        found = self.model_copy(update={"name": name})
        for key, reason in found._idle():
            raise UsageError(f"data.{key} {reason}", hint=f"leave data.{key} out")
        return found

    def step(self, images: int | None) -> int:
        """Return the size of a training step for so many training images: `batch_size`, or what fits them.

        None: they are made, and there is no end of them.
        """
        if self.batch_size is not None:
            return self.batch_size
        if images is None:
            return LARGEST_BATCH
        fits = max(1, images // LEAST_STEPS)
        return min(max(1 << (fits.bit_length() - 1), SMALLEST_BATCH), LARGEST_BATCH)

    def _idle(self) -> Iterator[tuple[str, str]]:
        """Yield the settings that have no effect on the set that is named, and why."""
        if self.unlabelled_batch is not None and (self.labels, self.unlabelled, self.target) == (None, None, None):
            yield "unlabelled_batch", "is for the stream of data.unlabelled, data.target or data.labels: there is none"
        if self.labels is None and self.labels_seed:
            yield "labels_seed", "says which images of data.labels keep theirs, and all do"
        if self.train_size is not None and self.augment.kind != "photo":
            yield "train_size", "is the size of the crops of data.augment photo, and there are none"
        fields = type(self).model_fields
        given = {name for name in fields if getattr(self, name) != fields[name].default}
        if self.check is not None and self.name != NOTHING:
            yield "check", f"is for {NOTHING}, and {self.name or 'the data'} has test images"
        if self.name == NOTHING:
            for key in sorted(given - {"name", "check", "batch_size", "image_size", "channels", "workers"}):
                yield key, "is for images, and there are none"
        yield from self._idle_of_files(given)

    def _idle_of_files(self, given: set[str]) -> Iterator[tuple[str, str]]:
        """Yield what has no effect on the set that is named since it lies in files of another kind, or in none."""
        name = self.name or ""
        scheme = next((each for each in (FOLDER, HF, WDS) if name.startswith(each)), None)
        if name in OFFICIAL and "test" in given:
            yield "test", f"is for data without a test split, and {name} has one"
        if (name == EMBEDDED or scheme is not None) and "root" in given:
            yield "root", f"is for the files of {', '.join(OFFICIAL)}, not {scheme or EMBEDDED}"
        if name in (EMBEDDED, *OFFICIAL):
            for key in sorted(given & {"channels", "workers"}):
                yield key, f"is for {FILES}, not {name}"
        if self.name is not None and scheme is None and "cache" in given:
            yield "cache", f"is for {FILES}, not {name}"
        if self.name is not None and scheme not in (HF, WDS):
            for key in sorted(given & {"image", "label"}):
                yield key, f"is for {HF}NAME and {WDS}PATTERN, not {name}"
        if self.cache is not None and self.augment.kind == "photo" and self.image_size is not None:
            yield "cache", "keeps images at image_size, and the crops of data.augment photo are of the whole ones"
