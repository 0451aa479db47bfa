"""Recipes: what YAML means, what is refused and how it is said, overrides, paths, the resolved copy, the schema."""

import contextlib
import math
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from required import REQUIRED

from compressor.errors import UsageError
from compressor.methods import METHODS, Needs
from compressor.methods.bss import BSS, Attack
from compressor.methods.ce import CE
from compressor.methods.kd import KD
from compressor.methods.losses.kl import LSKD
from compressor.recipe import (
    FORMATS,
    Bench,
    Data,
    Export,
    Gates,
    Override,
    Recipe,
    Schedule,
    Student,
    Teacher,
    Training,
    build,
    dump,
    load,
    require_runnable,
    schema,
    section,
    with_method,
)
from compressor.recipe.document import MAX_BYTES, parse

STUDENT = "student: {arch: resnet8}\n"
SHIPPED = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))


@pytest.fixture
def file(tmp_path):
    """A function that writes a recipe file."""

    def write(text: str | bytes, name: str = "mine.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def refused(path: Path, *overrides: str | Override) -> UsageError:
    with pytest.raises(UsageError) as caught:
        load(path, overrides)
    error = caught.value
    assert "\n" not in error.message
    assert not error.message.endswith(".")
    assert "pydantic" not in f"{error.message}{error.hint}"
    return error


# What a scalar means


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("-1.5e+2", -150.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("0o10", 8),
        ("0x1F", 31),
        ("-7", -7),
        ("+7", 7),
        ("0", 0),
        ("-.inf", -math.inf),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("no", "no"),
        ("Yes", "Yes"),
        ("on", "on"),
        ("OFF", "OFF"),
        ("y", "y"),
        ("1:30", "1:30"),
        ("190:20:30", "190:20:30"),
        ("2024-01-31", "2024-01-31"),
        ("1_000", "1_000"),
        ("0b101", "0b101"),
        ("1e", "1e"),
        ("1.2.3", "1.2.3"),
        ("=", "="),
        ("'1e-3'", "1e-3"),
        ('"no"', "no"),
        ("!!str 5", "5"),
        ("!!int 5", 5),
    ],
)
def test_a_scalar_means_what_yaml_1_2_says(text, value):
    read = parse(f"a: {text}", "x").values["a"]

    assert read == value
    assert type(read) is type(value)


def test_not_a_number_is_read_as_such():
    assert math.isnan(parse("a: .NaN", "x").values["a"])


def test_keys_are_text_whatever_they_look_like():
    assert parse("no: 1\n1e3: 2\nnull: 3\n010: 4", "x").values == {"no": 1, "1e3": 2, "null": 3, "010": 4}


def test_an_anchor_stands_for_its_value():
    assert parse("a: &x [1, {b: 2}]\nc: *x", "x").values == {"a": [1, {"b": 2}], "c": [1, {"b": 2}]}


def test_every_value_remembers_its_line():
    lines = parse("a: 1\nb:\n  - c: 2\n  - \n    d: 3\n", "x").lines

    assert lines["a",] == 1
    assert lines["b", 0, "c"] == 3
    assert lines["b", 1, "d"] == 5


# What is not a recipe file


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("# nothing\n\n", "is empty"),
        ("- 1\n", "made of keys"),
        ("just words", "made of keys"),
        ("a: 1\nb: 2\na: 3", ":3:1: the key a stands twice, first in line 1"),
        ("a: {b: 1, b: 2}", ":1:11: the key b stands twice"),
        ("a: 1\n\tb: 2", ":2:1: found character '\\t'"),
        ("a: [1, 2\n", ":2:1: expected ',' or ']'"),
        ("a: b: c", ":1:5: mapping values are not allowed here"),
        ("---\na: 1\n---\nb: 2", ":3:1: a second document begins"),
        ("a: 1\n---\n", ":2:1: a second document begins"),
        ("a: !!python/object/apply:os.system [ls]", "tag !!python/object/apply:os.system is refused"),
        ("a: !!python/name:os.system", "tag !!python/name:os.system is refused"),
        ("a: !mine 3", "tag !mine is refused"),
        ("a: !!set {x}", "tag !!set is refused"),
        ("a: !!binary aGk=", "tag !!binary is refused"),
        ("a: !!timestamp 2024-01-31", "tag !!timestamp is refused"),
        ("a: !!int x", "'x' does not fit its tag !!int"),
        ("a: &x {b: 1}\nc: {<<: *x}", "merge keys"),
        ("? [a, b]\n: 1", "a key must be a word"),
        ("a: *nowhere", "undefined alias 'nowhere'"),
        ("a: &x [*x]", "deeply nested"),
        ("a: " + "[" * 40 + "]" * 40, "nested more than 32 deep"),
        ("[" * 10_000, "nested more than 32 deep"),
        ("a: 010", ":1:4: 010 is octal to some readers and decimal to others"),
        ("a: -08", "-08 is octal to some"),
        ("a: " + "9" * 5000, "more than 100 digits"),
        ("a: '\x07'", ":1:5: the character U+0007 is not allowed"),
        ('a: "\\ud800"', "a character that no file name or key can hold"),
        ('a: "\\0"', "a character that no file name or key can hold"),
        ('a: "\\UFFFFFFFF"', "out of range"),
        ("%YAML 3.0\n---\na: 1", "incompatible YAML"),
        (b"PK\x03\x04\x00\x00", "binary data"),
        ("a: 1".encode("utf-16"), "binary data"),
        (b"a: 1\nb: \xff\n", ":2: not UTF-8 text"),
        (b"# long\n" + b"a: 1\n" * MAX_BYTES, "larger than 256 KiB"),
    ],
)
def test_a_file_that_is_not_plain_yaml_data_is_refused_by_sentence_and_place(file, text, said):
    path = file(text)

    error = refused(path)

    assert said in error.message
    assert error.message.startswith(str(path))
    assert error.exit_code == 2


def test_nested_anchors_that_would_grow_without_bound_are_refused(file):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 20)]

    assert "too many" in refused(file("\n".join(lines))).message


def test_what_cannot_be_opened_is_refused(tmp_path):
    assert "is a folder" in refused(tmp_path).message
    assert "there is no recipe file" in refused(tmp_path / "absent.yaml").message


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(file):
    assert load(file(b"\xef\xbb\xbfstudent:\r\n  arch: resnet8\r\n")).student.arch == "resnet8"


@settings(max_examples=150)
@given(st.text(max_size=60) | st.text("ab:-[]{}&*!'\"#|>%@ \n\t?,0.1e", max_size=60))
def test_no_text_is_answered_with_anything_but_values_or_a_sentence(text):
    with contextlib.suppress(UsageError):
        assert isinstance(parse(text, "x").values, None | bool | int | float | str | list | dict)


# What is not a recipe


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        (STUDENT + "train:\n  learning_rate: 1", ":3: unknown key train.learning_rate", "known: epochs,"),
        (STUDENT + "train:\n  epoch: 1", "unknown key train.epoch", "did you mean 'epochs'?"),
        (STUDENT + "trian: {lr: 1}", "unknown key trian", "did you mean 'train'"),
        (STUDENT + "lr: 1", "unknown key lr", "there is train.lr"),
        (STUDENT + "steps: 1", "unknown key steps", "there is method.attack.steps"),
        (STUDENT + "export: [{formats: onnx}]", "unknown key export.0.formats", "did you mean 'format'?"),
        (STUDENT + "validation: {}", "unknown key validation", "did you mean 'validate'?"),
        ("student: {name: resnet8}", "unknown key student.name", "missing key student.arch"),
        ("seed: 1", "missing key student", "resnet20"),
        (STUDENT + "teacher: {}", "missing key teacher.checkpoint", "a run"),
        (STUDENT + "gates: {p99_ms: {batch: 1}}", "missing key gates.p99_ms.max", None),
        (STUDENT + "method: {temperature: 3}", "missing key method.kind", f"one of {', '.join(sorted(METHODS))}"),
        (
            STUDENT + "method: {kind: bs}",
            "method.kind: must be one of 'ce', 'kd', 'bss', 'cckd'",
            "did you mean 'bss'?",
        ),
        (STUDENT + "method: {kind: none}", f"must be one of {', '.join(map(repr, METHODS))}", None),
        (STUDENT + "method: {kind: kd, attack: {}}", "unknown key method.attack", "temperature"),
        (STUDENT + "method: {kind: bss, attack: {step: 1}}", "key method.attack.step", "did you mean 'steps'"),
        (STUDENT + "method: kd", "method: must be a section of keys", 'write method: {kind: "kd"}'),
        ("student: resnet8", "student: must be a section of keys", 'write student: {arch: "resnet8"}'),
        (STUDENT + "gates:", "gates: must be a section of keys, got null", "leave an empty section out"),
        (STUDENT + "gates: {p99_ms: 3}", "gates.p99_ms: must be a section of keys, got 3", "write p99_ms: {max: 3}"),
        (STUDENT + "export: {format: onnx}", "export: must be a list, got a section", None),
        (STUDENT + "train: {lr: -1}", "train.lr: must be greater than 0, got -1", None),
        (STUDENT + "train: {lr: true}", "train.lr: must be a number, got true", None),
        (STUDENT + "train: {epochs: true}", "train.epochs: must be a whole number, got true", None),
        (STUDENT + "seed: no", 'seed: must be a whole number, got "no"', None),
        (STUDENT + "train: {lr: '1e-3'}", 'train.lr: must be a number, got "1e-3"', "write 0.001, without quotes"),
        (STUDENT + "train: {epochs: 1_000}", 'whole number, got "1_000"', "write 1000, without quotes or under"),
        (STUDENT + "train: {epochs: 1.5}", "train.epochs: must be a whole number, got 1.5", None),
        (STUDENT + "bench: {duration_s: 1:30}", 'bench.duration_s: must be a number, got "1:30"', None),
        (STUDENT + "train: {nesterov: yes}", 'train.nesterov: must be true or false, got "yes"', None),
        (STUDENT + "train: {nesterov: 1}", "train.nesterov: must be true or false, got 1", None),
        (STUDENT + "train: {lr: .inf}", "train.lr: must be a finite number", None),
        (STUDENT + "train: {lr: .nan}", "train.lr: must be a finite number", None),
        (STUDENT + "train: {lr: 1e999}", "train.lr: must be a finite number", None),
        (STUDENT + "seed: -1", "seed: must be at least 0, got -1", None),
        (STUDENT + "seed: 4294967296", "seed: must be less than 4294967296", None),
        (STUDENT + "name: 2024", "name: must be text, got 2024", 'in quotes: "2024"'),
        (STUDENT + "name: a/b", "name: must be of the form", "letters, digits and . _ + -"),
        (STUDENT + "name: ..", "name: must be of the form", None),
        (STUDENT + "recipe: 2", "recipe: must be 1, got 2", None),
        (STUDENT + "data: {name: ''}", "data.name: must be at least 1 character long", "digits"),
        (STUDENT + "data: {validation: true}", "data.validation: must be a number, got true", "held out"),
        (STUDENT + "data: {validation: 1.5}", "must be a whole number or less than 1, got 1.5", "held out"),
        (STUDENT + "data: {validation: -3}", "data.validation: must be", "held out"),
        (
            STUDENT + "data: {augment: no}",
            "data.augment: must be 'auto', 'none', 'crop', 'crop-flip' or 'photo'",
            "none",
        ),
        (STUDENT + "data: {root: 3}", "data.root: must be text, got 3", None),
        (STUDENT + "teacher: {checkpoint: ''}", "a path in the recipe is empty", None),
        (STUDENT + "data: {name: 'folder:'}", "folder: names no folder", "folder:PATH"),
        (STUDENT + "teacher: {checkpoint: ~nobody-of-this-name/x}", "is not a usable path", None),
        (STUDENT + "teacher: {checkpoint: x, mean: [0.5]}", "teacher: mean and std must be given together", None),
        (STUDENT + "teacher: {checkpoint: x, mean: [1, 1], std: [1]}", "mean has 2 channels and std has 1", None),
        (STUDENT + "teacher: {checkpoint: x, mean: [0], std: [0]}", "teacher.std.0: must be greater than 0", None),
        (STUDENT + "train:\n  schedule:\n    at: [60, 40]", ":4: train.schedule.at: must increase, got [60, 40]", None),
        (STUDENT + "train: {schedule: {at: [0.5, 40]}}", "train.schedule.at: must increase, got [0.5, 40]", None),
        (STUDENT + "train: {epochs: 3, schedule: {at: [2, 3]}}", "must be less than train.epochs, 3", "fractions"),
        (STUDENT + "train: {epochs: 3, schedule: {warmup: 3}}", "train.schedule.warmup: must be less than", None),
        (STUDENT + "train: {nesterov: true, momentum: 0}", "train.nesterov: needs optimizer sgd and a mom", None),
        (STUDENT + "train: {nesterov: true, optimizer: adamw}", "train.nesterov: needs optimizer sgd", None),
        (STUDENT + "export: [{format: onx}]", "export.0.format: must be 'onnx', 'trt'", "did you mean 'onnx'?"),
        (STUDENT + "export: [{format: tensorrt}]", "export.0.format: must be 'onnx', 'trt'", "trt"),
        (STUDENT + "export: [{}, {opset: 18}]", "export: lists onnx fp32 twice", None),
        (STUDENT + "export: [{batch: [1, 32, 8]}]", "export.0.batch: must be the smallest, the usual", None),
        (STUDENT + "export: [{batch: [1, 32]}]", "export.0.batch: must be a list of length 3 or more", None),
        (STUDENT + "export: [{batch: [1, 2, 3, 4]}]", "export.0.batch: must be a list of length 3 or less", None),
        (STUDENT + "bench: {batch_sizes: []}", "bench.batch_sizes: must be a list of length 1 or more", None),
        (STUDENT + "bench: {batch_sizes: [1, 8, 1]}", "bench.batch_sizes: must not name the same value", None),
        (STUDENT + "bench: {percentiles: [50, 100]}", "bench.percentiles.1: must be less than 100, got 100", None),
        (STUDENT + "method: {kind: bss, kd_weight: [1]}", "method.kd_weight: a weight is a number", None),
        (STUDENT + "method: {kind: bss, kd_weight: [1, 0, 2]}", "method.kd_weight.2: must be at most 1, got 2", None),
        (STUDENT + "gates: {min_agreement: 90}", "gates.min_agreement: must be at most 1, got 90", None),
        (STUDENT + "gates: {undecided: warn}", "gates.undecided: must be 'pass' or 'fail'", "fail, pass"),
    ],
)
def test_a_wrong_recipe_is_refused_by_dotted_name_with_a_hint(file, text, said, hint):
    error = refused(file(text))

    assert said in error.message
    assert hint is None or hint in (error.hint or "")


def test_several_mistakes_are_told_together_up_to_five(file):
    error = refused(file(STUDENT + "seed: -1\n" + "".join(f"k{number}: 0\n" for number in range(6))))

    assert "unknown key k0" in error.message
    assert error.hint is not None
    assert error.hint.count("also wrong: ") == 4
    assert error.hint.endswith("and 2 more")


def test_a_step_of_the_schedule_does_not_matter_to_the_other_kinds(file):
    text = STUDENT + "train: {epochs: 2, schedule: {kind: cosine, at: [40, 60]}}"

    assert load(file(text)).train.schedule.at == (40, 60)


@pytest.mark.parametrize("count", [0, 1, 5000])
def test_a_whole_number_of_validation_images_is_a_count_and_less_than_one_a_fraction(file, count):
    assert load(file(STUDENT + f"data: {{validation: {count}}}")).data.validation == count
    assert type(load(file(STUDENT + f"data: {{validation: {count}}}")).data.validation) is int
    assert load(file(STUDENT + "data: {validation: 1e-1}")).data.validation == 0.1


def test_the_formats_are_those_that_an_export_takes():
    assert [Export(format=name).format for name in FORMATS] == ["onnx", "trt", "trt-rtx", "openvino"]


def test_a_recipe_may_say_what_becomes_of_the_undecided(file):
    assert load(file(STUDENT)).gates.undecided is None
    assert load(file(STUDENT + "gates: {undecided: fail}")).gates.undecided == "fail"


# Flags and --set


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("train.lr=1e-3", lambda recipe: recipe.train.lr == 0.001),
        ("data.validation=5000", lambda recipe: recipe.data.validation == 5000),
        ("device=cpu", lambda recipe: recipe.device == "cpu"),
        (" seed = 7", lambda recipe: recipe.seed == 7),
        ("method.attack.steps=5", lambda recipe: recipe.method == BSS(attack=Attack(steps=5))),
        ("method.kind=kd", lambda recipe: recipe.method == KD()),
        ("export=[{format: onnx, opset: 18}]", lambda recipe: recipe.export == (Export(opset=18),)),
        ("export.0.precision=int8", lambda recipe: recipe.export == (Export(precision="int8"),)),
        ("export=[]", lambda recipe: recipe.export == ()),
        ("bench.batch_sizes.1=64", lambda recipe: recipe.bench.batch_sizes == (1, 64)),
        ("train.schedule={kind: cosine}", lambda recipe: recipe.train.schedule == Schedule(kind="cosine")),
        ("train.schedule.kind=cosine", lambda recipe: recipe.train.schedule == Schedule(kind="cosine")),
        ("gates.p99_ms={batch: 8, max: 2}", lambda recipe: recipe.gates.p99_ms.batch == 8),
        ("gates.p99_ms.max=2", lambda recipe: recipe.gates.p99_ms.max == 2),
        ("teacher.checkpoint=a=b.pt", lambda recipe: recipe.teacher.checkpoint.name == "a=b.pt"),
        ("validate.boundary_samples=0", lambda recipe: recipe.validation.boundary_samples == 0),
        ("data.image_size=", lambda recipe: recipe.data.image_size is None),
        ("data.image_size=8", lambda recipe: recipe.data.image_size == (8, 8)),
        ("data.image_size=[8, 12]", lambda recipe: recipe.data.image_size == (8, 12)),
    ],
)
def test_an_override_replaces_one_value_even_in_sections_that_are_left_out(file, override, read):
    assert read(load(file(STUDENT), [override]))


@pytest.mark.parametrize(
    ("override", "said", "hint"),
    [
        ("train.lr", "--set train.lr has no =", "train.lr=0.05"),
        ("=3", "--set =3: '' is not a key", None),
        ("a..b=3", "'a..b' is not a key", None),
        ("train.lr=-1", "--set train.lr=-1: train.lr: must be greater than 0, got -1", None),
        ("trian.lr=1", "--set trian.lr=1: unknown key trian", "did you mean 'train'"),
        ("train.epoch=1", "--set train.epoch=1: unknown key train.epoch", "did you mean 'epochs'?"),
        ("student.arch.x=1", "--set student.arch.x=1: student.arch is not a section", None),
        ("train.lr.x=1", "train.lr: must be a number, got a section", None),
        ("train=3", "--set train=3: train: must be a section of keys, got 3", None),
        ("export.1.opset=18", "1 is not an entry of a list of 1", "count from 0"),
        ("export.0=3", "--set export.0=3: export.0: must be a section", None),
        ("export.first.opset=3", "--set export.first.opset=3: export: must be a list", None),
        ("method.kind=kf", "--set method.kind=kf: method.kind: must be one of", None),
        ("train.epochs=[1", "--set 'train.epochs=[1':1:3: expected ',' or ']'", None),
        ("train.epochs=!!python/name:os.system", "tag !!python/name:os.system is refused", None),
    ],
)
def test_a_wrong_override_is_refused_and_named(file, override, said, hint):
    error = refused(file(STUDENT), override)

    assert said in error.message
    assert hint is None or hint in (error.hint or "")


def test_later_overrides_win_over_earlier_ones_flags_and_the_file(file):
    path = file(STUDENT + "seed: 1\ntrain: {lr: 1, epochs: 10}")
    flags = [Override(("seed",), 2), Override(("train", "epochs"), 20)]

    assert load(path, flags).seed == 2
    recipe = load(path, [*flags, "seed=3", "seed=4"])
    assert (recipe.seed, recipe.train.lr, recipe.train.epochs) == (4, 1, 20)


def test_a_wrong_flag_is_not_blamed_on_the_file(file):
    error = refused(file(STUDENT + "train: {epochs: 1}"), Override(("train", "epochs"), -3))

    assert error.message == "train.epochs: must be greater than 0, got -3"


def test_a_wrong_option_is_named_as_it_was_typed(file):
    path = file(STUDENT + "train: {epochs: 1}")
    epochs, lr = ("train", "epochs"), ("train", "lr")

    assert refused(path, Override(epochs, -3, "--epochs", said=2)).message == "--epochs: must be greater than 0, got -3"
    error = refused(path, Override(epochs, -3, "--epochs", said=2), Override(lr, 0, "--lr", said=2))
    assert error.hint == "also wrong: --lr: must be greater than 0, got 0"
    assert refused(path, Override(epochs, 2, "--epochs", said=2), "train.epochs=-3").message.startswith("--set ")


@pytest.mark.parametrize(
    ("typed", "said", "hint"),
    [
        ("min_top1=200", "--gate min_top1=200: min_top1: must be at most 100, got 200", None),
        ("min_top=90", "--gate min_top=90: unknown key min_top", "did you mean 'min_top1'"),
        ("p99_ms=5", "--gate p99_ms=5: p99_ms: must be a section of keys, got 5", "write p99_ms.max=5"),
        ("p99_ms.batch=8", "--gate p99_ms.batch=8: missing key p99_ms.max", None),
        ("min_top1", "--gate min_top1 has no =", "--gate min_top1=90"),
        ("top 1=3", "--gate 'top 1=3': 'top 1' is not a key", "--gate min_top1=90"),
    ],
)
def test_keys_below_a_section_are_named_without_it(file, typed, said, hint):
    with pytest.raises(UsageError) as caught:
        load(file(STUDENT), [Override.typed(typed, "--gate", example="min_top1=90", below=("gates",))])

    assert caught.value.message == said
    assert hint is None or hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "digits", "channels": 3}, "data.channels: is for folder:PATH, hf:NAME"),
        ({"name": "digits", "workers": 0}, "data.workers: is for folder:PATH, hf:NAME"),
        (
            {"name": "digits", "root": "/a"},
            "data.root: is for the files of cifar10, cifar100, mnist, fashion_mnist, not",
        ),
        ({"name": "cifar10", "channels": 1}, "data.channels: is for folder:PATH, hf:NAME"),
        ({"name": "mnist", "workers": 4}, "data.workers: is for folder:PATH, hf:NAME"),
        ({"name": "cifar10", "test": 0.1}, "data.test: is for data without a test split, and cifar10 has one"),
        ({"name": "folder:/images", "root": "/a"}, "data.root: is for the files of"),
    ],
)
def test_a_setting_that_has_no_effect_on_the_data_is_refused(data, message):
    with pytest.raises(UsageError) as caught:
        build({"student": {"arch": "a"}, "data": data}, base=Path("/"))
    assert caught.value.message.startswith(message)
    later = re.escape(message.replace(": is", " is"))  # where the data are those of the teacher
    with pytest.raises(UsageError, match=later):
        Data(**{key: value for key, value in data.items() if key != "name"}).called(data["name"])


@pytest.mark.parametrize(
    "data",
    [
        {"name": "digits", "image_size": 32, "augment": "none", "validation": 0, "test": 0.5, "batch_size": 8},
        {"name": "cifar10", "root": Path("/a"), "image_size": 16, "workers": 2},
        {"name": "folder:/images", "channels": 1, "workers": 0, "test": 0.1},
        {"channels": 3, "root": Path("/a"), "workers": 7},
        {"name": "my.module:images", "channels": 3, "root": Path("/a"), "workers": 7},
    ],
)
def test_a_setting_that_has_or_may_have_an_effect_is_kept(data):
    assert Data(**data).model_dump(include=set(data)) == data


@given(st.integers(1, 10**6))
def test_a_step_that_is_not_given_fits_the_data(images):
    step = Data().step(images)

    assert step in (16, 32, 64, 128, 256)
    assert step == 16 or images // step >= 32
    assert step == 256 or images // (2 * step) < 32
    assert Data(batch_size=7).step(images) == 7


def test_a_section_is_had_from_what_is_typed_for_it_alone(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    assert section(Bench, ("bench",), []) == Bench()
    assert section(Bench, ("bench",), [Override(("bench", "batch_sizes"), (1, 4))]) == Bench(batch_sizes=(1, 4))
    made = section(
        Export,
        ("export", 0),
        [Override(("export", 0, "format"), "trt"), Override.typed("engine.timing_cache=a.cache", below=("export", 0))],
    )
    assert made.format == "trt"
    assert made.engine.timing_cache == tmp_path / "a.cache"


@pytest.mark.parametrize(
    ("override", "message", "hint"),
    [
        (Override(("export", 0, "opset"), 0, "--opset", said=3), "--opset: must be greater than 0", "operator set"),
        (Override.typed("opsett=1", below=("export", 0)), "--set opsett=1: unknown key opsett", "did you mean 'opset'"),
        (Override(("export", 0, "max_drop"), 1, "--max-drop", said=3), "--max-drop: is for precision int8", ""),
    ],
)  # fmt: skip
def test_a_section_is_refused_in_the_words_of_a_recipe(override, message, hint):
    with pytest.raises(UsageError) as caught:
        section(Export, ("export", 0), [override])
    assert caught.value.message.startswith(message)
    assert hint in (caught.value.hint or "")


def test_what_replaces_a_section_is_blamed_for_what_the_section_lacks(file):
    path = file(STUDENT + "gates:\n  p99_ms: {batch: 8, max: 1}\n")

    assert refused(path, "gates.p99_ms={batch: 1}").message == (
        "--set 'gates.p99_ms={batch: 1}': missing key gates.p99_ms.max"
    )
    assert refused(path, "gates.p99_ms.max=0").message.startswith("--set gates.p99_ms.max=0: gates.p99_ms.max: must be")
    assert refused(path, "gates.p99_ms.max=1", "gates.p99_ms.batch=0").message.startswith(
        "--set gates.p99_ms.batch=0: "
    )


def test_a_flag_that_breaks_what_the_file_says_names_the_line_in_the_file(file):
    path = file(STUDENT + "train:\n  schedule:\n    at: [40, 60]")

    assert refused(path, Override(("train", "epochs"), 3)).message.startswith(f"{path}:4: train.schedule.at")


def test_an_override_may_index_the_lists_of_the_file(file):
    recipe = load(file(STUDENT + "export: [{opset: 18}, {precision: int8}]"), ["export.1.opset=19"])

    assert recipe.export == (Export(opset=18), Export(precision="int8", opset=19))


@pytest.mark.parametrize("how", [Override(("method", "kind"), "kd"), "method.kind=kd"])
def test_another_method_keeps_the_settings_both_have_and_drops_the_rest(file, how):
    path = file(STUDENT + "method: {kind: bss, temperature: 7, every: 2, attack: {steps: 3}}")

    assert load(path, [how]).method == KD(temperature=7)


def test_a_mistake_in_the_method_survives_a_change_of_kind(file):
    path = file(STUDENT + "method: {kind: bss, temprature: 7}")

    assert "unknown key method.temprature" in refused(path, "method.kind=kd").message


def test_a_recipe_can_be_built_from_flags_alone(tmp_path):
    values = {
        "student": {"arch": "resnet20"},
        "teacher": {"checkpoint": Path("t.pt")},
        "bench": {"batch_sizes": (1, 2)},
    }

    recipe = build(values, ["seed=5"], base=tmp_path)

    assert recipe.teacher == Teacher(checkpoint=tmp_path.resolve() / "t.pt")
    assert recipe.bench.batch_sizes == (1, 2)
    assert recipe.seed == 5
    assert values["teacher"] == {"checkpoint": Path("t.pt")}  # what the caller holds is left alone


def test_a_mistake_in_flags_alone_names_no_file(tmp_path):
    with pytest.raises(UsageError, match=r"^unknown key student\.depth$"):
        build({"student": {"arch": "a", "depth": 3}}, base=tmp_path)


def test_a_path_that_is_not_valid_text_is_refused(tmp_path):
    with pytest.raises(UsageError, match="not valid UTF-8"):
        build({"student": {"arch": "a"}, "teacher": {"checkpoint": "\udc80.pt"}}, base=tmp_path)


# Paths


def test_relative_paths_start_at_the_file_and_those_typed_at_the_working_directory(file, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    path = file(STUDENT.replace("}", ", init: w.pt}") + "teacher: {checkpoint: ../t.pt}\ndata: {name: 'folder:x'}")
    top = tmp_path.resolve()

    recipe = load(path)
    assert recipe.teacher.checkpoint == top.parent / "t.pt"
    assert recipe.student.init == top / "w.pt"
    assert recipe.data.name == f"folder:{top / 'x'}"

    teacher = Override(("teacher", "checkpoint"), Path("u.pt"))
    typed = load(path, [teacher, "data.name=folder:y", "student.init=v.pt"])
    assert typed.data.name == f"folder:{top / 'here' / 'y'}"
    assert typed.student.init == top / "here" / "v.pt"
    assert typed.teacher.checkpoint == top / "here" / "u.pt"

    assert load(path, ["data={name: mnist, root: r}"]).data.root == top / "here" / "r"
    assert load(file(STUDENT + "data: {root: r}")).data.root == top / "r"


def test_home_and_absolute_paths_stay_what_they_are(file, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = load(file(STUDENT + "teacher: {checkpoint: ~/t.pt}\ndata: {name: 'folder:~/d'}"))

    assert recipe.teacher.checkpoint == tmp_path.resolve() / "t.pt"
    assert recipe.data.name == f"folder:{tmp_path.resolve() / 'd'}"
    assert load(file(STUDENT + f"data: {{root: {tmp_path}/r}}")).data.root == tmp_path.resolve() / "r"


def test_names_that_only_look_like_paths_are_left_alone(file):
    recipe = load(file("student: {arch: 'timm/resnet18'}\ndata: {name: cifar10}\nteacher: {checkpoint: x, arch: a/b}"))

    assert (recipe.student.arch, recipe.data.name, recipe.teacher.arch) == ("timm/resnet18", "cifar10", "a/b")


def test_a_file_named_without_its_folder_resolves_from_the_working_directory(file, tmp_path, monkeypatch):
    file(STUDENT + "teacher: {checkpoint: t.pt}")
    monkeypatch.chdir(tmp_path)

    assert load(Path("mine.yaml")).teacher.checkpoint == tmp_path.resolve() / "t.pt"


# The resolved copy

_nasty = st.sampled_from(
    ["no", "1e-3", "010", "~", "", "null", "1:30", "2024-01-01", "a: b", "#x", "é", "- a", "<<", "="]
)
_positive = st.floats(1e-30, 1e30)
_fraction = st.floats(0.001, 0.999)
_recipes = st.builds(
    Recipe,
    name=st.sampled_from(["run", "1e3", "007", "no", "a.b_c-d+e", "été"]),
    seed=st.integers(0, 2**32 - 1),
    device=_nasty | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=200),
    data=st.builds(
        Data,
        name=st.sampled_from([None, "cifar10", "folder:/data/1e3", "folder:/a: b"]),
        validation=st.integers(0, 10**6) | _fraction,
    ),
    teacher=st.none()
    | st.builds(
        Teacher,
        checkpoint=st.sampled_from([Path("/t.pt"), Path("/with space/#1.pt"), Path("/1e3")]),
        arch=_nasty,
    ),
    student=st.builds(Student, arch=_nasty.filter(bool)),
    method=st.sampled_from([kind.model_validate(REQUIRED.get(name, {})) for name, kind in METHODS.items()])
    | st.builds(BSS, temperature=_positive, attack=st.builds(Attack, step_size=_positive)),
    train=st.builds(
        Training,
        lr=_positive,
        weight_decay=_positive,
        clip_norm=st.none() | _positive,
        schedule=st.builds(Schedule, kind=st.sampled_from(["cosine", "constant"]), at=st.lists(_positive).map(tuple)),
    ),
    export=st.sampled_from([(), (Export(),), (Export(), Export(format="trt", precision="int8", batch=(2, 2, 2)))]),
    gates=st.builds(Gates, max_accuracy_drop=st.none() | _positive, p99_ms=st.sampled_from([None, {"max": 1e-9}])),
)


@settings(max_examples=30)
@given(_recipes)
def test_loading_the_resolved_copy_gives_an_equal_recipe(tmp_path_factory, recipe):
    path = tmp_path_factory.getbasetemp() / "copy.yaml"
    text = dump(recipe)
    path.write_text(text, encoding="utf-8")

    assert load(path) == recipe
    # A reader of YAML 1.1 understands the copy in the same way.
    assert yaml.safe_load(text) == recipe.model_dump(mode="json", by_alias=True)


def test_the_resolved_copy_spells_every_default_and_absolute_paths(file, tmp_path):
    recipe = load(file(STUDENT + "teacher: {checkpoint: t.pt}"))
    copy = tmp_path / "elsewhere" / "copy.yaml"
    copy.parent.mkdir()
    copy.write_text(dump(recipe), encoding="utf-8")

    assert load(copy) == recipe
    written = yaml.safe_load(copy.read_text(encoding="utf-8"))
    # Of several teachers and of stages a recipe without them says nothing.
    assert {*written, "teachers", "stages"} == set(schema()["properties"])
    assert written["teacher"]["checkpoint"] == str(tmp_path.resolve() / "t.pt")
    assert written["train"]["schedule"] == {"kind": "steps", "at": [0.5, 0.75], "gamma": 0.1, "warmup": 0.0}


def test_the_copy_of_a_recipe_made_in_python_has_absolute_paths_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = Recipe(student=Student(arch="a"), teacher=Teacher(checkpoint=Path("t.pt")))

    assert f"checkpoint: {tmp_path.resolve() / 't.pt'}\n" in dump(recipe)


# The schema


def conforms(value, node, defs) -> bool:
    """Whether a value satisfies the part of JSON Schema that ours uses."""
    if "$ref" in node:
        return conforms(value, defs[node["$ref"].removeprefix("#/$defs/")], defs)
    if "anyOf" in node:
        return any(conforms(value, each, defs) for each in node["anyOf"])
    if "oneOf" in node:
        return sum(conforms(value, each, defs) for each in node["oneOf"]) == 1
    if "const" in node and (value != node["const"] or isinstance(value, bool)):
        return False
    if "enum" in node and value not in node["enum"]:
        return False
    if "pattern" in node and isinstance(value, str) and not re.search(node["pattern"], value):
        return False
    number = isinstance(value, int | float) and not isinstance(value, bool)
    kinds = {
        "object": isinstance(value, dict),
        "array": isinstance(value, list),
        "string": isinstance(value, str),
        "boolean": isinstance(value, bool),
        "null": value is None,
        "number": number,
        "integer": number and isinstance(value, int),
    }
    if "type" in node and not kinds[node["type"]]:
        return False
    if isinstance(value, dict):
        known = node.get("properties", {})
        return (
            (node.get("additionalProperties", True) or set(value) <= set(known))
            and set(node.get("required", [])) <= set(value)
            and all(conforms(each, known[key], defs) for key, each in value.items() if key in known)
        )
    if isinstance(value, list):
        nodes = node.get("prefixItems", []) + [node.get("items", {})] * len(value)
        fits = node.get("minItems", 0) <= len(value) <= node.get("maxItems", math.inf)
        return fits and all(conforms(each, inner, defs) for each, inner in zip(value, nodes, strict=False))
    return not number or (
        node.get("minimum", -math.inf) <= value <= node.get("maximum", math.inf)
        and node.get("exclusiveMinimum", -math.inf) < value < node.get("exclusiveMaximum", math.inf)
    )


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (STUDENT, True),
        (STUDENT + "method: {kind: bss, kd_weight: [1, 0, 0.5]}", True),
        (STUDENT + "data: {validation: 5000}", True),
        (STUDENT + "data: {validation: 1.5}", False),
        (STUDENT + "train: {lr: -1}", False),
        (STUDENT + "train: {learning_rate: 1}", False),
        (STUDENT + "method: {kind: bs}", False),
        (STUDENT + "export: [{format: onx}]", False),
        ("seed: 1", False),
    ],
)
def test_the_schema_takes_what_loading_takes(file, text, right):
    path = file(text)

    assert conforms(parse(text, "x").values, schema(), schema()["$defs"]) is right
    if right:
        load(path)
    else:
        refused(path)


def test_the_schema_says_which_standard_it_follows():
    assert schema()["$schema"].startswith("https://json-schema.org/")


# What a run needs


def test_a_method_that_learns_from_a_teacher_is_not_runnable_without_one():
    with pytest.raises(UsageError, match="method bss learns from a teacher") as caught:
        require_runnable(Recipe(student=Student(arch="a"), data=Data(name="digits")))

    assert "--teacher" in caught.value.hint


def test_without_data_and_teacher_there_is_nothing_to_run_on(file):
    with pytest.raises(UsageError, match="names no data set"):
        require_runnable(load(file(STUDENT + "method: {kind: ce}")))


def test_a_teacher_may_tell_the_data_and_labels_need_no_teacher(file):
    require_runnable(load(file(STUDENT + "teacher: {checkpoint: t.pt}")))
    require_runnable(load(file(STUDENT + "method: {kind: ce}\ndata: {name: digits}")))


def needing(monkeypatch, **needs):
    monkeypatch.setattr(CE, "needs", Needs(**({"teachers": 0, "most": 0} | needs)))


@pytest.mark.parametrize(
    ("needs", "text", "sentence"),
    [
        ({}, "teachers: [{checkpoint: a}, {checkpoint: b}]", "learns from no teacher, and the recipe names 2"),
        ({"teachers": 1, "most": 1}, "teachers: [{checkpoint: a}, {checkpoint: b}]", "from a teacher, .* names 2"),
        ({"teachers": 2, "most": 3}, "teacher: {checkpoint: a}", "from 2 teachers, and the recipe names 1"),
        ({"teachers": 2, "most": None}, "", "from 2 teachers, and the recipe names none"),
        ({"teachers": 1, "most": 2}, f"teachers: [{', '.join(['{checkpoint: a}'] * 3)}]", "2 teachers at most, .* 3"),
        ({}, "data: {name: digits, unlabelled: mnist}", "has no use for unlabelled images"),
        ({"unlabelled": True}, "", "learns from unlabelled images too, and the recipe names none"),
        ({"views": 2}, "data: {name: digits, augment: none}", "compares 2 views of an image, and without"),
        ({}, "data: {name: mnist, target: digits}", "has no use for a target domain"),
        ({}, "data: {name: mnist, augment: {mixup: 0.2}}", "ce needs the true label of each image, and mixed images"),
        ({}, "data: {name: mnist, augment: {cutmix: 1}}", "ce needs the true label of each image, and mixed images"),
        ({"target": True}, "data: {name: mnist, labels: 9}", "adapts to another domain, and the recipe names none"),
        ({"target": True}, "data: {name: mnist, unlabelled: digits}", "adapts to another domain"),
        ({}, "data: {name: none}", "learns from images, and the data are none"),
    ],
)
def test_what_a_method_lacks_or_has_no_use_for_is_refused(file, monkeypatch, needs, text, sentence):
    needing(monkeypatch, **needs)
    rest = text if "data:" in text else f"data: {{name: digits}}\n{text}"
    with pytest.raises(UsageError, match=sentence) as caught:
        require_runnable(load(file(f"{STUDENT}method: {{kind: ce}}\n{rest}")))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("needs", "text"),
    [
        ({}, "teacher: {checkpoint: a}"),  # to be compared with
        ({"teachers": 2, "most": None}, f"teachers: [{', '.join(['{checkpoint: a}'] * 5)}]"),
        ({"most": 2}, ""),
        ({"unlabelled": True, "views": 3}, "data: {name: digits, unlabelled: mnist, unlabelled_batch: 7}"),
        ({"data": False}, "train: {steps_per_epoch: 5}"),
        ({}, "train: {steps_per_epoch: 5}"),
        ({}, "data: {name: digits, labels: 50, labels_seed: 1}"),  # a baseline of those that use the others
        ({"unlabelled": True}, "data: {name: digits, labels: 50, unlabelled_batch: 7}"),
        ({"target": True}, "data: {name: mnist, image_size: 8, target: digits, unlabelled_batch: 7}"),
        ({"data": False, "teachers": 1, "most": 1}, "data: {name: none, check: digits}\nteacher: {checkpoint: a}"),
    ],
)
def test_what_a_method_needs_makes_it_runnable(file, monkeypatch, needs, text):
    needing(monkeypatch, **needs)
    rest = text if "data:" in text else f"data: {{name: digits}}\n{text}"
    require_runnable(load(file(f"{STUDENT}method: {{kind: ce}}\n{rest}")))


# Several teachers


def test_one_teacher_is_written_as_teacher_and_several_as_teachers(file, tmp_path):
    one = load(file(STUDENT + "teacher: {checkpoint: a.pt}"))
    assert one.teachers == (one.teacher,)
    assert load(file(STUDENT + "teachers: [{checkpoint: a.pt}]")) == one
    assert "teachers" not in yaml.safe_load(dump(one))

    several = load(file(STUDENT + "teachers: [{checkpoint: a.pt}, {checkpoint: b.pt, mean: [0.5], std: [0.5]}]"))
    assert several.teacher == one.teacher == several.teachers[0]
    assert several.teachers[1].checkpoint == tmp_path.resolve() / "b.pt"
    assert "teacher" not in yaml.safe_load(dump(several))
    assert load(file(dump(several))) == several
    assert several.with_teachers(one.teachers) == one
    none = one.with_teachers(())
    assert (none.teacher, none.teachers) == (None, ())
    assert yaml.safe_load(dump(none))["teacher"] is None
    assert load(file(dump(none))) == none


@pytest.mark.parametrize(
    ("text", "override", "sentence"),
    [
        ("teacher: {checkpoint: a}\nteachers: [{checkpoint: b}]", [], "teacher and teachers are both given"),
        ("teachers: [{checkpoint: a}, {checkpoint: b}]", ["teacher.checkpoint=c"], "teacher and teachers are both"),
        ("teacher: {checkpoint: a, mean: [1]}", [], "teacher: mean and std must be given together"),
        ("teachers: [{checkpoint: a}, {checkpoint: b, mean: [1]}]", [], "teachers.1: mean and std must be given"),
        ("teachers: [{checkpoint: a}, {chekpoint: b}]", [], "unknown key teachers.1.chekpoint"),
        ("teachers: [{checkpoint: a}, {checkpoint: b}]", ["teachers.1.classes=x"], "--set teachers.1.classes=x"),
        ("data: {name: digits, unlabelled_batch: 4}", [], "data.unlabelled_batch: is for the stream"),
        ("data: {name: digits, labels_seed: 4}", [], "data.labels_seed: says which images of data.labels keep theirs"),
        ("data: {name: a, unlabelled: digits, target: mnist}", [], "data.target: is a second stream already"),
        ("data: {name: digits, labels: 0}", [], "data.labels: must be"),
        ("method: {kind: kd, soft: {kind: kll}}", [], "method.soft.kind: must be one of 'kl'"),
        ("method: {kind: kd, soft: {kind: dkd, beta: -1}}", [], "method.soft.beta: must be at least 0"),
        ("method: {kind: kd, features: [{kind: at}]}", [], "missing key method.features.0.student"),
        ("method: {kind: kd, temperature: 2, soft: {kind: lskd}}", [], "method.temperature: is for the default"),
    ],
)
def test_wrong_teachers_and_losses_are_named(file, text, override, sentence):
    with pytest.raises(UsageError) as caught:
        load(file(STUDENT + text), override)
    assert sentence in caught.value.message


def test_an_override_reaches_into_the_only_teacher_and_into_losses(file):
    recipe = load(file(STUDENT + "teacher: {checkpoint: a}"), ["teacher.classes=7", "method.soft.kind=lskd"])
    assert recipe.teachers[0].classes == 7
    assert recipe.method.soft == LSKD()
    again = load(file(dump(recipe)), ["method.soft.temperature=5"])
    assert again.method.soft == LSKD(temperature=5)


# The shipped recipes


def test_there_are_shipped_recipes():
    assert {"digits-teacher", "digits-bss", "smoke"} <= {path.stem for path in SHIPPED}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_right_and_needs_no_file_of_ours(path, tmp_path):
    recipe = load(path)

    assert recipe.name == path.stem
    assert conforms(parse(path.read_text(encoding="utf-8"), "x").values, schema(), schema()["$defs"])
    assert (recipe.teacher, recipe.student.init, recipe.data.root) == (None, None, None)
    files = [tmp_path / f"{number}.pt" for number in range(max(1, recipe.method.needs.teachers))]
    require_runnable(recipe.with_teachers([Teacher(checkpoint=file) for file in files]))
    load(path, ["train.epochs=3"])


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_opens_with_what_it_is_its_result_cost_and_command(path):
    header = path.read_text(encoding="utf-8").split("\nrecipe:")[0].splitlines()

    assert re.fullmatch(r"# \S.*\.", header[0])
    assert any(line.startswith("# Expect: ") for line in header)
    assert any(line.startswith("# Cost: ") for line in header)
    assert any(re.match(rf"#   compress (train --recipe|run) {path.stem}\b", line) for line in header)


def test_the_published_protocol_is_what_the_bss_recipe_has():
    path = next(path for path in SHIPPED if path.stem == "cifar10-resnet26-resnet8-bss")
    recipe = load(path)
    epochs = recipe.train.epochs

    # Heo et al., AAAI 2019, and the authors' code: weights 3 (1 - e/80) + 1 and max(2 (1 - 4/3 e/80), 0), T = 3.
    assert (epochs, recipe.data.batch_size, recipe.train.lr, recipe.train.weight_decay) == (80, 256, 0.1, 1e-4)
    assert [step * epochs for step in recipe.train.schedule.at] == [40, 60]
    assert isinstance(recipe.method, BSS)
    assert recipe.method.temperature == 3
    for epoch in (1, 40, 60, 80):
        assert recipe.method.kd_weight.at(epoch / 80) == pytest.approx(3 * (1 - epoch / 80) + 1)
        assert recipe.method.bss_weight.at(epoch / 80) == pytest.approx(max(2 * (1 - 4 / 3 * epoch / 80), 0))
    assert recipe.method.attack == Attack(steps=10, step_size=0.3, margin=1e-4, size=64, keep="all")


# Files of methods


METHOD_FILES = sorted((Path(__file__).parent.parent / "recipes" / "methods").glob("*.yaml"))


@pytest.mark.parametrize("path", METHOD_FILES, ids=lambda path: path.stem)
def test_a_shipped_method_is_right_and_says_what_it_is(path):
    base = load(next(each for each in SHIPPED if each.stem == "cifar10-resnet26-resnet8-bss"))

    found = with_method(base, path)

    assert found.method != base.method
    assert found.model_copy(update={"method": base.method}) == base
    assert re.fullmatch(r"# \S.*\.", path.read_text(encoding="utf-8").splitlines()[0])


def test_a_method_of_a_file_has_all_of_its_own_settings_and_those_of_a_recipe_count_too(tmp_path):
    base = load(next(each for each in SHIPPED if each.stem == "digits-bss"), ["method.temperature=7"])
    (tmp_path / "mine.yaml").write_text("method: {kind: kd, kd_weight: 2}\n")
    (tmp_path / "whole.yaml").write_text("name: other\nstudent: {arch: lenet5}\nmethod: {kind: ce}\nseed: 3\n")

    assert with_method(base, tmp_path / "mine.yaml").method == KD(kd_weight=2)  # and the usual temperature
    assert with_method(base, tmp_path / "whole.yaml") == base.model_copy(update={"method": CE()})


@pytest.mark.parametrize(
    ("text", "words", "hint"),
    [
        ("method: {kind: kd, temprature: 2}", "mine.yaml:1: unknown key method.temprature", "did you mean"),
        ("name: x", "has no section method", "method: {kind: kd"),
        ("kind: kd", "has no section method", "put kind and its keys below method:"),
        ("", "has no section method", ""),
        ("method: {kind: kdd}", "mine.yaml:1: method.kind: must be one of", "did you mean"),
    ],
)
def test_a_file_without_a_right_method_is_refused_with_its_line(tmp_path, text, words, hint):
    base = load(next(each for each in SHIPPED if each.stem == "digits-bss"))
    (tmp_path / "mine.yaml").write_text(text)

    with pytest.raises(UsageError, match=re.escape(words)) as error:
        with_method(base, tmp_path / "mine.yaml")
    assert hint in (error.value.hint or "")
