"""The networks of a recipe: who teaches, who learns."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from compressor.choices import ChannelOrder, Normalize, Quantization
from compressor.methods import Config
from compressor.methods.protocol import refusal


class Teacher(Config):
    """A trained checkpoint, or the folder of a run that trained one."""

    checkpoint: Path = Field(description="a checkpoint, or the folder of a run")
    arch: str | None = Field(default=None, description="only when the checkpoint fits several architectures")
    weights: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="which of several sets of weights in the checkpoint, by its key: model_ema"
    )
    classes: PositiveInt | None = Field(default=None, description="only when the checkpoint does not say")
    normalize: Normalize = Field(
        default="given", description="auto: use the usual mean and std that fit best, when the data's own fit badly"
    )
    mean: tuple[float, ...] | None = Field(default=None, description="per channel, for pixels in [0, 1]")
    std: tuple[PositiveFloat, ...] | None = Field(default=None, description="per channel, for pixels in [0, 1]")
    channel_order: ChannelOrder = Field(default="rgb", description="bgr: it takes blue first; mean and std stay RGB")

    answers: Literal["logits", "probabilities"] = Field(
        default="logits", description="probabilities: of a TorchScript or torch.export file that ends in a softmax"
    )

    @model_validator(mode="after")
    def _normalisation_is_whole(self) -> Self:
        if self.channel_order == "bgr" and self.mean is None:
            raise refusal("is for a teacher whose mean and std are given too", key="channel_order")
        if (self.mean is None) != (self.std is None):
            raise refusal("mean and std must be given together")
        if self.mean is not None and self.std is not None and len(self.mean) != len(self.std):
            raise refusal(f"mean has {len(self.mean)} channels and std has {len(self.std)}")
        return self


class Quantize(Config):
    """How many bits a student learns to be computed in; see docs/quantisation.md."""

    weights: Annotated[int, Field(ge=2, le=8)] = Field(default=8, description="bits of a weight")
    activations: Annotated[int, Field(ge=2, le=8)] = Field(
        default=8, description="bits of what a convolution or a matrix product reads; sums between them have 8"
    )
    recipe: Quantization = Field(default="cpu", description="round as the INT8 file for CPUs does, or for TensorRT")

    @property
    def title(self) -> str:
        """`W8A8`."""
        return f"W{self.weights}A{self.activations}"

    @property
    def integer(self) -> bool:
        """Whether an INT8 file carries it."""
        return self.weights == self.activations == 8


class Student(Config):
    """`resnet20`, `torchvision/mobilenet_v3_small`, `timm/NAME` or `package.module:factory`."""

    arch: Annotated[str, Field(min_length=1)] = Field(
        description="resnet20, torchvision/NAME, timm/NAME or package.module:factory"
    )
    init: Path | None = Field(default=None, description="weights to start from; of other classes, all but the head")
    quantize: Quantize | None = Field(
        default=None, description="learn through the rounding that the export will have; null: in floating point"
    )
