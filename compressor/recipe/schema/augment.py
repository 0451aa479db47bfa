"""What happens to the images that are trained on, differently in every epoch."""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    NonNegativeFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from compressor.methods import Config
from compressor.methods.protocol import refusal

Kind = Literal["auto", "none", "crop", "crop-flip", "photo"]
Area = Annotated[float, Field(gt=0, le=1)]


class Jitter(Config):
    """How far brightness, contrast and saturation may move, as parts of themselves, and the hue, of a full turn."""

    brightness: NonNegativeFloat = 0.4
    contrast: NonNegativeFloat = 0.4
    saturation: NonNegativeFloat = 0.4
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1


class RandAugment(Config):
    """A few operations at random, all of one strength (Cubuk et al., arXiv:1909.13719)."""

    operations: PositiveInt = 2
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9


class Augment(Config):
    """`kind` says how images are cut out and mirrored; all else goes with any kind. A word alone is the kind."""

    kind: Kind = Field(
        default="auto",
        description="auto: crop-flip for photographs, crop for digits and characters; crop: moved by up to an eighth; "
        "flip: mirrored half of the time; photo: a part of each image at random, at the size of the data, and flip",
    )
    scale: tuple[Area, Area] = Field(
        default=(0.08, 1.0),
        description="of photo: the least and the largest part of an image's area",
    )
    jitter: Jitter | None = Field(default=None, description="brightness, contrast, saturation and hue at random")
    rand_augment: RandAugment | None = Field(default=None, description="a few operations at random")
    mixup: NonNegativeFloat = Field(
        default=0.0, description="two images are blended, by a share drawn from Beta(mixup, mixup); 0: never"
    )
    cutmix: NonNegativeFloat = Field(
        default=0.0, description="a box of another image is pasted, its area drawn from Beta(cutmix, cutmix); 0: never"
    )

    @model_validator(mode="after")
    def _scale_is_of_photo(self) -> Self:
        if self.kind != "photo" and "scale" in self.model_fields_set and self.scale != (0.08, 1.0):
            raise refusal("is for kind: photo", key="scale")
        if self.scale[0] > self.scale[1]:
            raise refusal(f"must increase, got [{self.scale[0]:g}, {self.scale[1]:g}]", key="scale")
        return self

    @property
    def mixes(self) -> bool:
        """Whether images are mixed of two."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def moves(self) -> bool:
        """Whether an image is another in every epoch, what it is mixed with aside."""
        return self.kind != "none" or self.jitter is not None or self.rand_augment is not None


class _OrWord:
    """The type of a section that may be written as its kind alone, and is where it holds nothing else."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        section = handler.generate_schema(source)
        word = core_schema.literal_schema(list(get_args(Kind)))
        return core_schema.tagged_union_schema(
            {"word": core_schema.no_info_after_validator_function(_section, word), "section": section},
            discriminator=_form,
            serialization=core_schema.wrap_serializer_function_ser_schema(_written, schema=section),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": handler(schema)["oneOf"]}


def _form(value: Any) -> str | None:
    if isinstance(value, str):
        return "word"
    return "section" if isinstance(value, dict | Augment) else None


def _section(kind: Kind) -> Augment:
    return Augment(kind=kind)


def _written(value: Augment, handler: SerializerFunctionWrapHandler) -> Any:
    return value.kind if value == Augment(kind=value.kind) else handler(value)


Augmented = Annotated[Augment, _OrWord()]
