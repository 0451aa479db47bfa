"""Options: what stands for a recipe key says so once, in the recipe's own words, and adds up to what was typed."""

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

import pytest
import typer

from compressor import choices
from compressor.choices import Provider
from compressor.cli import doctor, export, measure, options, train
from compressor.cli.command import laid_out
from compressor.cli.options import Key, changes, given
from compressor.data import NAMES, named
from compressor.errors import UsageError
from compressor.recipe import Override, shape
from exporters.onnx.session import PROVIDERS

GROUPS = [
    *(options.TeacherOptions, options.DataOptions, options.TrainingOptions, options.RunOptions),
    *(train.NetworkOptions, train.StudentOptions, train.OtherStudent, train.Baseline),
    *(doctor.NeedOptions, measure.BenchSettings, export.ArtifactOptions),
]
AROUND = {"export": [{}]}


def keyed() -> dict[str, tuple[object, Key]]:
    """The options that stand for a recipe key: their type and the key."""
    found = {}
    for group in GROUPS:
        hints = get_type_hints(group, include_extras=True)
        for field in fields(group):
            kind, *beside = get_args(hints[field.name])
            found |= {f"{group.__name__}.{field.name}": (kind, key) for key in beside if isinstance(key, Key)}
    return found


def words(kind: object) -> set[str]:
    """The words of the literals in a type."""
    if get_origin(kind) is Literal:
        return set(get_args(kind))
    return {word for part in get_args(kind) for word in words(part)}


@pytest.mark.parametrize("name", keyed())
def test_an_option_stands_for_a_key_of_the_recipe_and_offers_its_words(name):
    kind, key = keyed()[name]
    assert key.place[-1] in shape.keys(key.place[:-1], AROUND)
    if words(kind):
        assert words(kind) == set(shape.choices(shape.at(key.place, AROUND)))


def test_options_with_words_are_among_them():
    assert [name for name, (kind, _) in keyed().items() if words(kind)] == [
        *("TeacherOptions.normalize", "TrainingOptions.precision", "ArtifactOptions.precision"),
        *("ArtifactOptions.input_", "ArtifactOptions.output", "ArtifactOptions.quantization"),
        "ArtifactOptions.calibration",
    ]


def test_every_provider_can_be_named():
    assert set(get_args(Provider)) == {*PROVIDERS, "openvino"}


def test_the_data_sets_that_a_recipe_knows_are_those_that_can_be_opened():
    assert tuple(named.OFFICIAL) == choices.OFFICIAL
    assert (choices.EMBEDDED, *choices.OFFICIAL) == NAMES


def test_what_was_typed_adds_up_and_the_rest_stays_as_it_is():
    training = options.TrainingOptions(epochs=3, precision="bf16")
    wanted = export.ArtifactOptions(format_="trt", batch="1:2:4")

    assert changes(training, wanted, set_=["train.lr=1e-3"], gate=["min_top1=90"]) == [
        Override(("train", "epochs"), 3, "--epochs", said=2),
        Override(("train", "precision"), "bf16", "--precision", said=2),
        Override(("export", 0, "format"), "trt", "--format", said=3),
        Override(("export", 0, "batch"), [1, 2, 4], "--batch", said=3),
        Override.typed("train.lr=1e-3"),
        Override(("gates", "min_top1"), 90, "--gate min_top1=90", said=1),
    ]
    assert given(training, options.DataOptions()) == {"--epochs": 3, "--precision": "bf16"}
    assert given(export.ArtifactOptions(input_="uint8")) == {"--input": "uint8"}
    assert changes(options.TeacherOptions(), options.RunOptions(overwrite=True, out=Path("a"))) == []


def test_off_is_typed_too():
    assert [each.value for each in changes(measure.BenchSettings(transfers=False))] == [False]


@pytest.mark.parametrize("text", ["1,x", "0", "", "1,,2"])
def test_what_an_option_takes_apart_is_refused_by_its_name(text):
    with pytest.raises(UsageError, match="--batch-sizes takes whole numbers with commas between, not"):
        changes(measure.BenchSettings(batch_sizes=text))


def test_a_group_is_laid_out_as_its_options():
    seen = []

    def command(
        training: options.TrainingOptions,
        path: Annotated[Path, typer.Argument()],
        images: options.DataOptions,
        quiet: options.Quiet = False,
    ) -> None:
        seen.append((training, path, images, quiet))

    app = typer.Typer()
    app.command()(laid_out(command))
    app(["there", "--epochs", "3", "-b", "8", "--data", "digits", "-q"], standalone_mode=False)

    assert seen == [
        (options.TrainingOptions(epochs=3, batch_size=8), Path("there"), options.DataOptions(data="digits"), True)
    ]
