"""Our own files: students, which say what they are and were seen to do, and training states that can be resumed.

A student is safetensors with one JSON text; a state is tensors and plain values. Both are written whole or not at all.
"""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator
from safetensors.torch import save
from torch import Tensor, nn

from compressor.checkpoint import pickles
from compressor.checkpoint.formats import Format, damaged, sniff
from compressor.errors import InputRejected
from compressor.files import replacing
from compressor.models import Change, changes_of
from compressor.models.quantised import Plan

_MOST_CLASSES = 1_000_000
_LARGEST_IMAGE = 2**27  # numbers of an image
KEY = "compressor"  # a single key: the order of several would differ from one writing to the next


class Card(BaseModel):
    """The metadata of a student file, version 1. Keys of later versions that this one does not know are ignored.

    `quantized` tells where and how the network rounds, where it was trained to; the weights are those before rounding.
    `mean` and `std` hold one value a channel; `data` is the data set's name as a recipe has it; `metrics` is what was
    measured when the file was written, in the units of `docs/result.md`; `changes` is what was changed in the network
    after its architecture was built.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    format: Literal[1] = 1
    arch: str
    classes: int = Field(ge=1, le=_MOST_CLASSES)
    class_names: tuple[str, ...] | None = None
    input_shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    data: str | None = None
    metrics: dict[str, float | None] = {}
    teacher_sha256: str | None = None
    recipe_name: str | None = None
    quantized: Plan | None = None
    changes: tuple[Change, ...] = ()

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "Card":
        if not len(self.mean) == len(self.std) == self.input_shape[0] or not all(value > 0 for value in self.std):
            raise ValueError("mean and std need one value a channel, std above zero")
        channels, height, width = self.input_shape
        if channels * height * width > _LARGEST_IMAGE:
            raise ValueError(f"an image of {channels}x{height}x{width} is larger than any")
        if self.class_names is not None and len(self.class_names) != self.classes:
            raise ValueError(f"{len(self.class_names)} class names for {self.classes} classes")
        return self


def save_student(
    path: Path,
    network: nn.Module,
    *,
    arch: str,
    classes: int,
    class_names: Sequence[str] | None,
    input_shape: tuple[int, int, int],
    mean: Sequence[float],
    std: Sequence[float],
    data: str | None,
    metrics: Mapping[str, float | None] | None = None,
    teacher_sha256: str | None = None,
    recipe_name: str | None = None,
    quantized: Plan | None = None,
) -> None:
    """Write a network without its `Normalized`: the same weights and metadata give the same bytes."""
    card = Card(
        arch=arch,
        classes=classes,
        class_names=None if class_names is None else tuple(class_names),
        input_shape=input_shape,
        mean=tuple(mean),
        std=tuple(std),
        data=data,
        metrics=dict(metrics or {}),
        teacher_sha256=teacher_sha256,
        recipe_name=recipe_name,
        quantized=quantized,
        changes=changes_of(network),
    )
    # Copies: tensors that share memory, as tied weights do, are refused by the format.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in network.state_dict().items()}
    content = save(tensors, metadata={KEY: json.dumps(_written(card), sort_keys=True)})
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _written(card: Card) -> dict[str, Any]:
    """Return what a file says of its student; of changes only where there are any, as in files of before there were."""
    return card.model_dump(mode="json", exclude=None if card.changes else {"changes"})


def read_card(metadata: Mapping[str, Any], path: Path) -> Card | None:
    """Return what a student file says of itself, or None for a file that we did not write.

    Raises:
        InputRejected: it is of another version, or does not agree with itself.
    """
    text = metadata.get(KEY)
    if not isinstance(text, str):
        return None
    try:
        content = json.loads(text)
        version = content.get("format") if isinstance(content, dict) else None
        if version != 1:
            raise InputRejected(
                f"{path} is a student file of format {version}, and this version reads format 1",
                hint="use the version of compress that wrote it",
            )
        return Card.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "its metadata"
        raise InputRejected(f"{path} contradicts itself: {where}: {problem['msg']}") from None
    except (ValueError, RecursionError) as error:
        raise InputRejected(f"{path} has metadata that is not JSON: {error}") from None


_KIND = "compressor training state"
_VERSION = 1


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write `state`: tensors, numbers, texts, and lists and dicts of them."""
    _save(path, {"kind": _KIND, "version": _VERSION, "state": state})


def save_weights(path: Path, weights: Mapping[str, Tensor], **facts: float) -> None:
    """Write a plain checkpoint as anyone has them: the weights under `state_dict`, and numbers beside them."""
    _save(path, {"state_dict": dict(weights), **facts})


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote, on the CPU.

    Raises:
        InputRejected: the file is absent, damaged, or not a training state of this version.
    """
    if sniff(path) is not Format.TORCH:
        raise _foreign(path)
    content = pickles.load(path, Format.TORCH)
    if not isinstance(content, dict) or content.get("kind") != _KIND:
        raise _foreign(path)
    if content.get("version") != _VERSION:
        raise InputRejected(
            f"{path} is a training state of version {content.get('version')}, not {_VERSION}",
            hint="resume it with the version of compress that wrote it",
        )
    state = content.get("state")
    if not isinstance(state, dict):
        damaged(path, "it has no 'state'")
    return state


def _save(path: Path, content: dict[str, Any]) -> None:
    written = io.BytesIO()
    torch.save(content, written)
    with replacing(path) as temporary:
        temporary.write_bytes(written.getvalue())


def _foreign(path: Path) -> InputRejected:
    return InputRejected(
        f"{path} is not a training state that can be resumed", hint="--resume takes the folder of a run"
    )
