"""From a file to a network: which architecture, which tensors go where, and the sentence when they do not fit."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from torch import nn

from compressor import models
from compressor.checkpoint.blackbox import open_blackbox, open_graph, with_logarithms
from compressor.checkpoint.formats import Format, sniff
from compressor.checkpoint.match import Fit, candidate, head_classes, parts, strict
from compressor.checkpoint.network import Network, Shape
from compressor.checkpoint.own_files import Card, read_card
from compressor.checkpoint.reading import Tensors, read_tensors
from compressor.errors import InputRejected, UsageError
from compressor.files import sha256
from compressor.models.quantised import Quantised
from compressor.plugins import is_plugin
from compressor.recipe import Teacher
from compressor.runs.folder import Run


def load_teacher(config: Teacher, *, input_shape: Shape | None = None) -> Network:
    """Open the teacher of a recipe; a run's folder means its student, an ONNX file only answers. See `load_network`.

    Raises:
        UsageError: it is said to answer with probabilities, and its architecture is known, which gives logits.
    """
    network = _graph(config) if _is_graph(config.checkpoint) else _checkpoint(config, input_shape)
    if config.answers == "logits":
        return network
    if network.arch is not None:
        raise UsageError(
            f"{config.checkpoint} holds the weights of {network.arch}, which answers with logits",
            hint="leave teacher.answers out: it is for TorchScript, torch.export and ONNX files",
        )
    return with_logarithms(network)


def _checkpoint(config: Teacher, input_shape: Shape | None) -> Network:
    return load_network(
        config.checkpoint,
        arch=config.arch,
        weights=config.weights,
        classes=config.classes,
        input_shape=input_shape,
        mean=config.mean,
        std=config.std,
        bgr=config.channel_order == "bgr",
    )


def shape_unsaid(config: Teacher) -> bool:
    """Whether nothing about a teacher tells the shape of its images: a network of the user's own, or a black box.

    Raises:
        InputRejected: there is no such file, or it is none that is known.
    """
    if _is_graph(config.checkpoint):
        return False
    format_ = sniff(_file(config.checkpoint))
    return format_ in {Format.TORCHSCRIPT, Format.EXPORTED} or (config.arch is not None and is_plugin(config.arch))


def _is_graph(path: Path) -> bool:
    return path.suffix == ".onnx" and path.is_file()


def _graph(config: Teacher) -> Network:
    path = config.checkpoint
    given = [key for key in ("arch", "weights") if getattr(config, key) is not None]
    if given:
        raise UsageError(
            f"{path} is an ONNX file, which brings its own architecture and weights",
            hint=f"leave teacher.{given[0]} out",
        )
    graph = open_graph(path, mean=config.mean, std=config.std, bgr=config.channel_order == "bgr")
    network = replace(graph, called="the teacher")
    _refuse_other_classes(path, network.classes, config.classes)
    return network


def load_network(
    path: Path,
    *,
    arch: str | None = None,
    weights: str | None = None,
    classes: int | None = None,
    input_shape: Shape | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    bgr: bool = False,
) -> Network:
    """Open any trained classifier, on the CPU, in evaluation mode.

    Args:
        arch: names the architecture instead of finding it; a factory in a file's own metadata counts only when it is
            named here too, since importing it runs code.
        weights: which of several sets of weights in the file, by its key or the first word of their names.
        input_shape: of the images, where it is known; some networks are built for one shape.
        mean, std: override those of the file's metadata; with `bgr` it takes blue first.

    Raises:
        InputRejected: the file cannot be used; the sentence says why.
        UsageError: several architectures fit, or `arch`, `mean` or `std` cannot be.
    """
    path = _file(path)
    format_ = sniff(path)
    if format_ in {Format.TORCHSCRIPT, Format.EXPORTED}:
        if arch is not None:
            raise UsageError(
                f"{path} is a {format_.value}, which brings its own architecture", hint="leave --teacher-arch out"
            )
        if weights is not None:
            raise UsageError(f"{path} is a {format_.value}, which holds one network", hint="leave teacher.weights out")
        module, shape, found = open_blackbox(path, format_, input_shape)
        _refuse_other_classes(path, found, classes)
        summary = f"{format_.value}, {found} classes, {_size(module)}, used as it is"
        return _normalised(path, module, None, found, shape, None, mean, std, bgr, summary)
    read = read_tensors(path, weights=weights)
    card = read_card(read.metadata, path)
    read, fit = _fit(path, read, card, arch, classes, input_shape)
    _refuse_other_classes(path, fit.classes, classes)
    summary = _summary(read, fit, card)
    return _normalised(path, fit.module, fit.arch, fit.classes, fit.input_shape, card, mean, std, bgr, summary)


def _fit(
    path: Path, read: Tensors, card: Card | None, arch: str | None, classes: int | None, shape: Shape | None
) -> tuple[Tensors, Fit]:
    if card is not None and (arch is None or arch == card.arch):
        if ":" in card.arch and arch is None:
            raise InputRejected(
                f"{path} names the factory {card.arch}, and a file may not choose the code to run",
                hint=f"where you trust it: --teacher-arch {card.arch}",
            )
        hint = "its metadata and its weights do not belong together: write it again"
        try:
            size = shape or card.input_shape
            return read, strict(path, read, card.arch, card.classes, size, changes=card.changes, hint=hint)
        except UsageError as error:
            if not card.changes:
                raise
            raise InputRejected(f"{path} contradicts itself: {error.message}", hint=hint) from error
    try:
        return read, _whole(path, read, arch, classes, shape)
    except InputRejected as refusal:
        found = _fitting_parts(path, read, arch, classes, shape)
        if not found:
            raise
        if len(found) > 1:
            words = [part.prefixes[len(read.prefixes)].rstrip(".") for part, _ in found]
            raise InputRejected(
                f"{path} holds {len(found)} networks: "
                + ", ".join(f"{word} ({models.title(fit.arch)})" for word, (_, fit) in zip(words, found, strict=True)),
                hint=f"teacher.weights chooses: --set teacher.weights={words[0]}, or another of them",
            ) from refusal
        return found[0]


def _whole(path: Path, read: Tensors, arch: str | None, classes: int | None, shape: Shape | None) -> Fit:
    if arch is not None:
        return strict(path, read, arch, classes or head_classes(path, read.tensors), shape)
    return candidate(path, read, classes, shape)


def _fitting_parts(
    path: Path, read: Tensors, arch: str | None, classes: int | None, shape: Shape | None
) -> list[tuple[Tensors, Fit]]:
    found = []
    for part in parts(read):
        if arch is None and not models.candidates(part.tensors):
            continue
        with suppress(InputRejected):
            found.append((part, _whole(path, part, arch, classes, shape)))
    return found


def _normalised(
    path: Path,
    module: nn.Module,
    arch: str | None,
    classes: int,
    shape: Shape,
    card: Card | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    bgr: bool,
    summary: str,
) -> Network:
    if (mean is None) != (std is None):
        raise UsageError(
            "mean and std come together, and only one is given", hint="give both teacher.mean and teacher.std"
        )
    chosen = (mean, std) if mean is not None and std is not None else (card.mean, card.std) if card else None
    channels = shape[0]
    means, stds = chosen or ((0.0,) * channels, (1.0,) * channels)
    if len(means) != channels or len(stds) != channels:
        raise UsageError(
            f"{path} takes {channels} channels, but mean has {len(means)} values and std {len(stds)}",
            hint="give one value for each channel",
        )
    return Network(
        module=_pixels_in(path, module, means, stds, card, bgr=bgr),
        arch=arch,
        classes=classes,
        class_names=card.class_names if card else None,
        input_shape=shape,
        mean=tuple(means),
        std=tuple(stds),
        bgr=bgr,
        stated=chosen is not None,
        data=card.data if card else None,
        parameters=models.parameters(module),
        path=path,
        sha256=sha256(path),
        summary=summary,
    )


def _pixels_in(
    path: Path, module: nn.Module, mean: Sequence[float], std: Sequence[float], card: Card | None, *, bgr: bool
) -> models.Normalized:
    """Return the network behind its normalisation, and behind its rounding where it was trained with that."""
    if card is None or card.quantized is None:
        return models.Normalized(module, mean, std, bgr=bgr).eval()
    if bgr or tuple(mean) != card.mean or tuple(std) != card.std:
        raise UsageError(
            f"{path} was trained to be quantised under the mean and std in it, and takes no others",
            hint="leave mean and std out",
        )
    return Quantised(module, mean, std, card.quantized).eval()


def _file(path: Path) -> Path:
    if path.is_dir():
        student = Run(path).student
        if not student.is_file():
            raise InputRejected(
                f"{path} is a folder without {student.relative_to(path)}",
                hint="give a checkpoint, or the folder of a run that has finished",
            )
        return student
    return path


def _refuse_other_classes(path: Path, found: int, wanted: int | None) -> None:
    if wanted is not None and found != wanted:
        raise InputRejected(
            f"{path} has {found} classes, not {wanted}", hint="leave --num-classes out, or give another checkpoint"
        )


def _summary(read: Tensors, fit: Fit, card: Card | None) -> str:
    renamed = ", keys renamed" if fit.renamed else ""
    renamed += "; one logit z, taken as two classes with the logits 0 and z" if fit.binary else ""
    notes = "".join(f"; {note}" for note in read.notes)
    notes += f"; {card.quantized.sentence}" if card is not None and card.quantized is not None else ""
    return (
        f"{models.title(fit.arch)}, {fit.classes} classes, {_size(fit.module)}, "
        f"{fit.matched}/{len(read.tensors)} tensors matched{renamed}{notes}"
    )


def _size(module: nn.Module) -> str:
    count = models.parameters(module)
    return f"{count / 1e6:.2f} M parameters" if count >= 100_000 else f"{count:,} parameters"
