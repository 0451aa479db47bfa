"""Files become networks, whatever they are wrapped in; what is foreign, damaged or dangerous gets its own sentence."""

import argparse
import datetime
import json
import pickle
import re
import sys
import types
import warnings
import zipfile
from collections import OrderedDict, defaultdict
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file
from torch import nn
from torch.nn.utils import prune

from compressor import models
from compressor.checkpoint import (
    default_data,
    load_network,
    load_state,
    load_teacher,
    read_tensors,
    save_state,
    save_student,
    trial,
)
from compressor.checkpoint.formats import Format, sniff
from compressor.checkpoint.reading import PREFIXES, WRAPPERS, strip_prefixes, unwrap
from compressor.checkpoint.torchscript import pure
from compressor.errors import CompressError, InputRejected, UsageError
from compressor.models import Normalized
from compressor.recipe import Teacher

ARCH, SHAPE = "resnet8-conv", (3, 32, 32)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture(scope="module")
def trained():
    """A small network of the catalogue whose BatchNorm statistics are not the initial ones."""
    torch.manual_seed(0)
    network = models.build(ARCH, classes=10, input_shape=SHAPE)
    with torch.no_grad():
        network.train()(torch.rand(16, *SHAPE))
    return network.eval()


@pytest.fixture
def state(trained):
    return {name: tensor.clone() for name, tensor in trained.state_dict().items()}


@pytest.fixture
def student(trained, tmp_path):
    """A function that writes `trained` as a student file of ours."""

    def write(name="student.safetensors", **changes):
        card = {"arch": ARCH, "classes": 10, "class_names": tuple("abcdefghij"), "input_shape": SHAPE}
        card |= {"mean": MEAN, "std": STD, "data": "cifar10", "metrics": {"top1": 91.5}, "recipe_name": "r"}
        save_student(tmp_path / name, trained, **(card | changes))
        return tmp_path / name

    return write


@pytest.fixture
def few(monkeypatch):
    """Leave torchvision out of the search: it takes seconds to see that nothing there fits."""
    monkeypatch.setattr(models.infer.torchvision_zoo, "names", lambda: ())


class Trap:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def sprung(path):
    """Whether the trap works at all: without this, a test that nothing happens says nothing."""
    pickle.loads(pickle.dumps(Trap(path)))
    done = path.exists()
    path.unlink()
    return done


def scripted(network, path, shape=SHAPE):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript; users' files remain
        torch.jit.trace(network, torch.rand(2, *shape)).save(str(path))
    return path


def rejected(action, *words, error=InputRejected):
    with pytest.raises(error) as caught:
        action()
    text = f"{caught.value.message} | {caught.value.hint}"
    for word in words:
        assert word in text, text
    assert not caught.value.message.endswith(".")
    return caught.value


# --- students of ours


def test_a_student_comes_back_as_it_was_written(trained, student, images):
    network = load_network(student())

    assert (network.arch, network.classes, network.input_shape) == (ARCH, 10, SHAPE)
    assert (network.mean, network.std, network.stated, network.data) == (MEAN, STD, True, "cifar10")
    assert network.class_names == tuple("abcdefghij")
    pixels = images(4, size=32)
    torch.testing.assert_close(network.module(pixels), Normalized(trained, MEAN, STD)(pixels), rtol=0, atol=0)
    assert not network.module.training


def test_the_same_student_has_the_same_bytes(student):
    assert student("one.safetensors").read_bytes() == student("two.safetensors").read_bytes()


def test_a_student_file_has_one_metadata_text_of_format_1(student):
    header = student().read_bytes()
    metadata = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"]

    assert list(metadata) == ["compressor"]
    card = json.loads(metadata["compressor"])
    assert card["format"] == 1
    assert card["metrics"] == {"top1": 91.5}


def test_tied_and_strided_weights_can_be_written(tmp_path):
    network = nn.Module()
    network.one = nn.Parameter(torch.rand(3, 2).T)
    network.two = network.one

    save_student(
        tmp_path / "s.safetensors", network, arch="x", classes=2, class_names=None, input_shape=(1, 8, 8),
        mean=(0.0,), std=(1.0,), data=None,
    )  # fmt: skip

    read = load_file(tmp_path / "s.safetensors")
    assert torch.equal(read["one"], network.one)
    assert torch.equal(read["two"], network.one)


def test_a_student_of_a_later_format_is_refused(trained, tmp_path):
    path = tmp_path / "new.safetensors"
    save_file(dict(trained.state_dict()), path, metadata={"compressor": json.dumps({"format": 2})})

    rejected(lambda: load_network(path), "format 2", "reads format 1")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"std": (1.0, 0.0, 1.0)}, "std above zero"),
        ({"class_names": ["a"]}, "1 class names for 10"),
        ({"arch": 3}, "arch"),
    ],
)
def test_a_student_that_contradicts_itself_is_refused(student, tmp_path, changes, word):
    good = student()
    card = {"format": 1, "arch": ARCH, "classes": 10, "input_shape": SHAPE, "mean": MEAN, "std": STD} | changes
    path = tmp_path / "bad.safetensors"
    save_file(load_file(good), path, metadata={"compressor": json.dumps(card)})

    rejected(lambda: load_network(path), str(path), word)


def test_a_student_with_a_missing_tensor_is_refused(student, tmp_path):
    path = student()
    tensors = load_file(path)
    removed = tensors.pop("bn1.running_var")
    header = path.read_bytes()
    metadata = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"]
    save_file(tensors, tmp_path / "cut.safetensors", metadata=metadata)

    assert removed is not None
    rejected(lambda: load_network(tmp_path / "cut.safetensors"), "1 missing (bn1.running_var)")


def test_a_file_may_not_choose_the_code_to_run(student, tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef net(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = student(arch="evil:net")

    rejected(lambda: load_network(path), "evil:net", "--teacher-arch evil:net")
    assert not (tmp_path / "ran").exists()
    assert "evil" not in sys.modules


def test_a_run_folder_means_its_student(student, tmp_path):
    path = student()
    folder = tmp_path / "runs" / "first-1"
    (folder / "student").mkdir(parents=True)
    path.rename(folder / "student" / "student.safetensors")

    network = load_teacher(Teacher(checkpoint=folder))

    assert (network.arch, network.path) == (ARCH, folder / "student" / "student.safetensors")
    rejected(lambda: load_network(tmp_path / "runs"), "folder without student")


# --- wrappers and prefixes


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_weights_are_found_under_every_usual_wrapper(wrapper):
    found = unwrap({"epoch": 3, wrapper: {"w": torch.ones(2)}, "optimizer": {"state": {0: {"w": torch.zeros(2)}}}})

    assert found.wrapper == wrapper
    assert found.tensors["w"].sum() == 2
    assert found.metadata["epoch"] == 3


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    wrappers=st.lists(st.sampled_from([*WRAPPERS, "[]", "()", "mine"]), max_size=3),
    prefixes=st.lists(st.sampled_from(PREFIXES), max_size=3),
)
def test_any_nesting_of_wrappers_and_prefixes_leads_to_the_same_weights(wrappers, prefixes):
    content = {"".join(prefixes) + name: torch.full((2,), float(k)) for k, name in enumerate(["a.weight", "b.weight"])}
    for name in wrappers:
        content = [content] if name == "[]" else (content,) if name == "()" else {name: content}

    found = unwrap(content)
    tensors, removed = strip_prefixes(found.tensors)

    assert list(tensors) == ["a.weight", "b.weight"]
    assert tensors["b.weight"].tolist() == [1, 1]
    assert removed == tuple(prefixes)


def test_a_prefix_that_some_names_lack_stays():
    tensors = {"module.a": torch.ones(1), "b": torch.ones(1)}

    assert strip_prefixes(tensors) == (tensors, ())


def test_trained_weights_are_preferred_to_averaged_ones_and_that_is_said(state, tmp_path):
    averaged = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    torch.save({"ema": averaged, "model": state}, tmp_path / "both.pt")

    read = read_tensors(tmp_path / "both.pt")

    assert torch.equal(read.tensors["conv1.weight"], state["conv1.weight"])
    assert read.notes == ("took 'model', not 'ema' (teacher.weights chooses)",)
    assert load_network(tmp_path / "both.pt").summary.endswith("took 'model', not 'ema' (teacher.weights chooses)")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"epoch": 1, "lr": 0.1}, "holds no weights, only epoch, lr"),
        ([1, 2], "holds no weights, only a list"),
        (torch.ones(3), "holds no weights, only a Tensor"),
        ({"one": {"w": torch.ones(1)}, "two": {"w": torch.ones(1)}}, "several sets of weights (one, two)"),
        ({}, "holds no weights, only nothing"),
    ],
)
def test_content_without_a_single_set_of_weights_is_described(tmp_path, content, sentence):
    torch.save(content, tmp_path / "x.pt")

    rejected(lambda: read_tensors(tmp_path / "x.pt"), sentence)


# --- formats


def formats(state, folder):
    """The same weights in each format that users have."""
    torch.save(state, folder / "plain.pt")
    torch.save(state, folder / "legacy.th", _use_new_zipfile_serialization=False)
    save_file(state, folder / "plain.safetensors")
    lightning = {f"model.{name}": tensor for name, tensor in state.items()}
    torch.save(
        {"state_dict": lightning, "hyper_parameters": {"lr": 0.1}, "pytorch-lightning_version": "2.5"},
        folder / "lightning.ckpt",
    )
    torch.save([{"net": OrderedDict(state)}], folder / "list.pt")
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    torch.save({"state_dict": {f"module._orig_mod.{name}": t for name, t in halves.items()}}, folder / "half.pt")
    return sorted(path for path in folder.iterdir() if path.is_file())


def test_every_format_gives_the_same_network(trained, state, tmp_path, images):
    pixels = images(2, size=32)
    for path in formats(state, tmp_path):
        network = load_network(path)

        assert network.arch == ARCH, path
        assert network.summary == "resnet8-conv (CIFAR), 10 classes, 78,042 parameters, 56/56 tensors matched"
        assert (network.stated, network.data, network.mean) == (False, None, (0.0, 0.0, 0.0))
        torch.testing.assert_close(network.module(pixels), trained(pixels), rtol=2e-2, atol=2e-2)


def test_an_archive_that_was_zipped_again_still_loads(state, tmp_path):
    torch.save(state, tmp_path / "stored.pt")
    small = zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "stored.pt") as stored, small:
        for name in stored.namelist():
            small.writestr(name, stored.read(name))

    read = read_tensors(tmp_path / "small.pt")

    assert all(torch.equal(tensor, state[name]) for name, tensor in read.tensors.items())


def test_what_lay_beside_lightning_weights_is_kept(state, tmp_path):
    formats(state, tmp_path)

    read = read_tensors(tmp_path / "lightning.ckpt")

    assert read.metadata["hyper_parameters"] == {"lr": 0.1}
    assert (read.wrapper, read.prefixes) == ("state_dict", ("model.",))


def test_renamed_keys_are_matched_one_to_one(trained, state, tmp_path, images):
    renamed = {f"layer_{number}.{name.rpartition('.')[2]}": state[name] for number, name in enumerate(state)}
    torch.save(renamed, tmp_path / "renamed.pt")

    network = load_network(tmp_path / "renamed.pt")

    assert network.summary.endswith("56/56 tensors matched, keys renamed")
    torch.testing.assert_close(network.module(images(2, size=32)), trained(images(2, size=32)), rtol=0, atol=0)


def test_checkpoints_from_before_batchnorm_counters_load(state, tmp_path):
    old = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pt")

    assert load_network(tmp_path / "old.pt").arch == ARCH
    assert load_network(tmp_path / "old.pt", arch=ARCH).arch == ARCH


# --- which architecture


def test_several_fitting_architectures_are_listed_with_the_flag_that_decides(tmp_path):
    network = models.build("resnet8", classes=10, input_shape=SHAPE)  # untrained: nothing tells the paddings apart
    torch.save(network.state_dict(), tmp_path / "x.pt")
    load = lambda **named: load_network(tmp_path / "x.pt", **named)  # noqa: E731 - called five times

    rejected(load, "resnet8 (CIFAR), resnet8-centred (CIFAR)", "--teacher-arch resnet8", error=UsageError)
    assert load(arch="resnet8-centred").arch == "resnet8-centred"

    torch.save({"arch": "resnet8-centred", "state_dict": network.state_dict()}, tmp_path / "x.pt")
    assert load().arch == "resnet8-centred"


def test_the_architecture_with_the_checkpoints_own_names_wins_over_one_that_needs_others(tmp_path):
    state = models.build("vgg8", classes=10, input_shape=SHAPE).state_dict()
    torch.save(state, tmp_path / "x.pt")

    assert len(models.candidates(state)) == 2
    assert load_network(tmp_path / "x.pt").arch == "vgg8"


@pytest.mark.usefixtures("few")
def test_a_named_architecture_that_does_not_fit_lists_the_first_differences(state, tmp_path):
    torch.save(state, tmp_path / "x.pt")

    error = rejected(lambda: load_network(tmp_path / "x.pt", arch="resnet14-conv"), "leave --teacher-arch out")
    assert "30 missing (layer1.1.conv1.weight" in error.message
    assert error.hint.startswith("its tensors fit resnet8-conv (CIFAR)")

    state["linear.weight"] = state["linear.weight"][:, :5]
    state["extra"] = torch.ones(1)
    torch.save(state, tmp_path / "x.pt")
    rejected(
        lambda: load_network(tmp_path / "x.pt", arch=ARCH),
        "1 unexpected (extra)",
        "1 other shapes (linear.weight [10, 5] instead of [10, 64])",
    )


@pytest.mark.usefixtures("few")
def test_an_unknown_network_is_explained_with_the_ways_to_give_it(tiny, tmp_path):
    torch.save(tiny().state_dict(), tmp_path / "x.pt")

    rejected(
        lambda: load_network(tmp_path / "x.pt"), "fits no known architecture", "package.module:factory", "TorchScript"
    )


@pytest.mark.parametrize("inner", ["net.", "model.net.", ""])
def test_a_users_own_factory_loads_names_that_begin_like_a_wrapper(tiny, tmp_path, monkeypatch, inner, images):
    lines = ["from conftest import TinyClassifier", "import torch", "def make(classes):"]
    lines += ["    network = TinyClassifier(classes)"]
    for name in reversed(inner.split(".")[:-1]):
        lines += [
            "    outer = torch.nn.Sequential()",
            f"    outer.add_module({name!r}, network)",
            "    network = outer",
        ]
    module = f"own_{len(inner)}"
    (tmp_path / f"{module}.py").write_text("\n".join([*lines, "    return network"]))
    monkeypatch.syspath_prepend(tmp_path)
    network = tiny(classes=7)
    torch.save({f"module.{inner}{name}": t for name, t in network.state_dict().items()}, tmp_path / "x.pt")

    loaded = load_network(tmp_path / "x.pt", arch=f"{module}:make", input_shape=(3, 8, 8))

    assert (loaded.arch, loaded.classes) == (f"{module}:make", 7)
    torch.testing.assert_close(loaded.module(images()), network(images()), rtol=0, atol=0)


@pytest.mark.usefixtures("few")
def test_another_number_of_classes_than_asked_is_refused(state, tmp_path, student):
    torch.save(state, tmp_path / "x.pt")

    rejected(lambda: load_network(tmp_path / "x.pt", classes=100), "has 10 classes, not 100", "--num-classes")
    rejected(lambda: load_network(student(), classes=100), "has 10 classes, not 100")


def test_a_normalisation_given_overrides_the_files(student, state, tmp_path):
    assert load_network(student(), mean=(0.0,) * 3, std=(1.0,) * 3).std == (1.0, 1.0, 1.0)

    torch.save(state, tmp_path / "x.pt")
    stated = load_teacher(Teacher(checkpoint=tmp_path / "x.pt", mean=(0.1,) * 3, std=(0.5,) * 3))
    assert (stated.mean, stated.stated) == ((0.1, 0.1, 0.1), True)
    assert stated.module(torch.full((1, *SHAPE), 0.1)).equal(
        load_network(tmp_path / "x.pt").module(torch.zeros(1, *SHAPE))
    )
    rejected(lambda: load_network(student(), mean=(0.1,) * 3), "only one is given", error=UsageError)
    rejected(lambda: load_network(student(), mean=(0.1,), std=(1.0,)), "3 channels", error=UsageError)


@pytest.mark.parametrize(
    ("arch", "classes", "shape", "name"),
    [
        (ARCH, 10, SHAPE, "cifar10"), (ARCH, 100, SHAPE, "cifar100"), (ARCH, 7, SHAPE, None),
        (ARCH, 10, (1, 32, 32), None), ("lenet5-half", 10, (1, 28, 28), "mnist"),
    ],
)  # fmt: skip
def test_the_usual_data_follows_from_family_and_classes(tmp_path, arch, classes, shape, name):
    torch.save(models.build(arch, classes=classes, input_shape=shape).state_dict(), tmp_path / "x.pt")

    assert default_data(load_network(tmp_path / "x.pt")) == name


# --- what is no checkpoint


def test_files_that_are_no_checkpoints_are_named_for_what_they_are(tmp_path):
    cases = {
        "page.pt": (b"<!DOCTYPE html><html><body>404</body></html>\n", "web page"),
        "notes.pt": (b"these are my notes\n", "text file"),
        "pointer.pt": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        "empty.pt": (b"", "is empty"),
        "keras.pt": (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
        "noise.pt": (bytes([7, 200, 3, 255]) * 50, "not a checkpoint of a kind known here"),
        "net.onnx": (b"\x08\x09\xff\xfe" + bytes(50), "ONNX"),
    }
    for name, (content, words) in cases.items():
        (tmp_path / name).write_bytes(content)
        rejected(lambda name=name: load_network(tmp_path / name), name, words)


def test_a_header_whose_length_begins_like_a_pickle_is_read_with_its_metadata(tmp_path):
    path, weights = tmp_path / "x.safetensors", {"w": torch.zeros(2)}
    for room in range(900, 1300):  # some of these headers are 0x0480 bytes long
        save_file(weights, path, metadata={"note": "n" * room})
        if path.read_bytes()[:2] == b"\x80\x04":
            break

    assert path.read_bytes()[:2] == b"\x80\x04"
    assert read_tensors(path).metadata["note"] == "n" * room


def test_a_missing_file_suggests_its_neighbour(tmp_path):
    (tmp_path / "resnet20.pt").touch()

    rejected(lambda: load_network(tmp_path / "resnet2O.pt"), "no such file", "'resnet20.pt'")
    rejected(lambda: load_network(tmp_path / "nowhere" / "x.pt"), "no such file")
    rejected(lambda: load_network(tmp_path), "folder without student")


def test_a_zip_that_holds_something_else_is_said_to(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")

    rejected(lambda: read_tensors(tmp_path / "x.pt"), "zip archive that holds no checkpoint")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.95])
def test_cut_off_files_are_called_damaged_in_every_format(state, tmp_path, share):
    for path in formats(state, tmp_path):
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

        rejected(lambda path=path: load_network(path), str(path), "damaged or cut off")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(state, tmp_path, value):
    state["layer2.0.conv1.weight"][3, 2, 0, 0] = value
    torch.save(state, tmp_path / "x.pt")

    rejected(lambda: load_network(tmp_path / "x.pt"), "NaN or infinite weights: 1 of 4608 in layer2.0.conv1.weight")


# --- nothing in a file is executed


@pytest.mark.parametrize("kind", ["archive", "legacy", "pickle2", "pickle4", "beside"])
def test_a_pickle_with_code_is_refused_naming_it_and_nothing_runs(state, tmp_path, kind):
    mark, path = tmp_path / "ran", tmp_path / "x.t7"
    assert sprung(mark)
    if kind in {"archive", "legacy"}:
        torch.save({"net": Trap(mark)}, path, _use_new_zipfile_serialization=kind == "archive")
    elif kind == "beside":
        torch.save({"state_dict": state, "extra": Trap(mark)}, path)
    else:
        path.write_bytes(pickle.dumps({"net": Trap(mark)}, protocol=int(kind[-1])))

    name = "Path.touch" if kind == "pickle4" else "getattr"
    rejected(lambda: load_network(path), "would run code", name, "'weights.pt')", "weights_only=False")
    assert not mark.exists()


@pytest.mark.parametrize("modern", [True, False])
def test_a_pickled_module_is_refused_with_its_classes(tiny, tmp_path, modern):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old format warns about its own storages
        torch.save(tiny(), tmp_path / "x.t7", _use_new_zipfile_serialization=modern)

    rejected(lambda: read_tensors(tmp_path / "x.t7"), "conftest.TinyClassifier", "torch.nn.modules.")


class Config:
    """Of a user's own, so that no allow-list can know it."""

    lr = 0.1


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (lambda state: {"args": Config(), "net": state}, "torch.save(checkpoint['net'], 'weights.pt')"),
        (lambda state: {"epoch": 1, "model": nn.Linear(2, 2)}, "torch.save(checkpoint['model'].state_dict(), 'weights"),
        (lambda state: nn.Linear(2, 2), "torch.save(checkpoint.state_dict(), 'weights.pt')"),
    ],
)
@pytest.mark.parametrize("modern", [True, False])
def test_what_stays_refused_names_the_lines_that_save_the_weights_of_that_file(tmp_path, state, content, lines, modern):
    path = tmp_path / "x.ckpt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content(state), path, _use_new_zipfile_serialization=modern)

    rejected(lambda: load_network(path), "torch.load('x.ckpt', map_location='cpu', weights_only=False)", lines)


def plain_values():
    return {
        "args": argparse.Namespace(lr=0.1, milestones=[1, 2], out=Path("a/b")),
        "best": np.float64(91.5), "steps": np.int64(7), "wide": np.dtype(">f4").type(2.5), "mask": np.arange(3),
        "many": defaultdict(list, {"x": [1]}), "when": datetime.datetime(2024, 5, 6, 7, 8), "seen": {1, 2},
        "took": datetime.timedelta(seconds=3), "space": types.SimpleNamespace(a=1), "exact": Decimal("1.5"),
    }  # fmt: skip


@pytest.mark.parametrize("modern", [True, False])
def test_plain_data_beside_the_weights_are_read_as_data(state, tmp_path, modern):
    torch.save({"state_dict": state, **plain_values()}, tmp_path / "x.pt", _use_new_zipfile_serialization=modern)

    read = read_tensors(tmp_path / "x.pt")

    assert all(torch.equal(tensor, state[name]) for name, tensor in read.tensors.items())
    assert read.metadata["args"] == {"lr": 0.1, "milestones": [1, 2], "out": "a/b"}
    assert (read.metadata["best"], read.metadata["steps"], read.metadata["wide"]) == (91.5, 7, 2.5)
    assert read.metadata["many"] == {"x": [1]}
    assert read.metadata["when"] == "2024-05-06 07:08:00"
    assert read.metadata["space"] == {"a": 1}
    assert load_network(tmp_path / "x.pt").arch == ARCH


def test_weights_inside_an_object_of_plain_data_are_found(state, tmp_path):
    torch.save(argparse.Namespace(net=state), tmp_path / "x.pt")

    assert load_network(tmp_path / "x.pt").arch == ARCH


def test_an_allowed_name_runs_nothing_of_what_it_names(tmp_path, monkeypatch):
    """The stand-ins keep values: NumPy's own functions, which could be given hostile states, are not called."""
    torch.save({"state_dict": {"w": torch.ones(2, 2)}, "best": np.float64(1)}, tmp_path / "x.pt")
    real = np.dtype
    monkeypatch.setattr(np, "dtype", lambda *given: pytest.fail("was called"))
    try:
        found = read_tensors(tmp_path / "x.pt")
    finally:
        monkeypatch.setattr(np, "dtype", real)

    assert found.metadata["best"] == 1.0


# --- networks that bring their own code


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "net.pt2"
    program = torch.export.export(trained, (torch.rand(2, *SHAPE),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(program, path)
    return path


def rewritten(source, path, changes):
    """Copy an archive with the parts whose names end as the keys of `changes` replaced."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(path, "w") as copy:
        for name in archive.namelist():
            content = archive.read(name)
            for ending, change in changes.items():
                content = change(content) if name.endswith(ending) else content
            copy.writestr(name, content)
    return path


@pytest.mark.parametrize("kind", ["torchscript", "exported"])
@pytest.mark.starts
def test_a_black_box_gives_logits_and_image_gradients(trained, exported, tmp_path, images, kind):
    path = exported if kind == "exported" else scripted(trained, tmp_path / "net.pt")

    network = load_network(path, mean=MEAN, std=STD)

    assert (network.arch, network.classes, network.input_shape, network.parameters) == (None, 10, SHAPE, 78042)
    assert "10 classes, 78,042 parameters" in network.summary
    pixels = images(5, size=32).requires_grad_()
    logits = network.module.train().eval()(pixels)
    torch.testing.assert_close(logits, Normalized(trained, MEAN, STD)(pixels), rtol=1e-4, atol=1e-4)
    (gradient,) = torch.autograd.grad(logits.sum(), pixels)
    assert gradient.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in network.module.parameters())


@pytest.mark.starts
def test_training_mode_does_not_reach_into_a_black_box(trained, tmp_path, images):
    module = load_network(scripted(trained, tmp_path / "net.pt")).module
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}

    module.train()(images(4, size=32))

    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


@pytest.mark.starts
def test_a_black_box_needs_no_architecture(trained, tmp_path):
    path = scripted(trained, tmp_path / "net.pt")

    rejected(lambda: load_network(path, arch=ARCH), "brings its own architecture", error=UsageError)
    rejected(lambda: load_network(path, classes=3), "has 10 classes, not 3")
    rejected(lambda: read_tensors(path), "holds a whole network")


class Pair(nn.Module):
    def forward(self, images):
        return images, images


class Features(nn.Module):
    def forward(self, images):
        return images * 2


class Rounded(nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, :4].detach()


class Writes(nn.Module):
    def forward(self, images):
        torch.save(images, "leak")
        return images.flatten(1)


@pytest.mark.starts
def test_black_boxes_that_are_no_differentiable_classifiers_say_so(tmp_path):
    path = tmp_path / "net.pt"

    rejected(lambda: load_network(scripted(Pair(), path)), "answers with a tuple")
    rejected(lambda: load_network(scripted(Features(), path)), "answers with a tensor (2, 3, 32, 32)")
    rejected(lambda: load_network(scripted(Rounded(), path)), "no gradient passes")


def script(network, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(network).save(str(path))
    return path


class Loud(nn.Module):
    def forward(self, images):
        print("::add-mask::x")
        warnings.warn("loud", stacklevel=2)
        return images.flatten(1)[:, :4] * 2


class Endless(nn.Module):
    def forward(self, images):
        while images.numel() > 0:
            images = images * 1
        return images.flatten(1)


class Restored(nn.Module):
    """Torch calls `__setstate__` while it loads."""

    def __init__(self):
        super().__init__()
        self.scale = torch.ones(1)

    @torch.jit.export
    def __getstate__(self):
        return self.scale, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]):
        torch.save(state[0], "leak")
        self.scale, self.training = state

    def forward(self, images):
        return images.flatten(1) * self.scale


class Branch(nn.Module):
    """What is refused hides in a branch of a method that a function's result decides upon."""

    def forward(self, images):
        if bool(images.sum() > 1e9):
            torch.manual_seed(3)
        return images.flatten(1)


def keeps(self, given: tuple[torch.Tensor], output: torch.Tensor):
    torch.save(output, "leak")
    return output


def hooked():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 4))
    network.register_forward_hook(keeps)
    return network


@pytest.mark.parametrize(
    ("make", "word"),
    [(Writes, "aten::save"), (Branch, "aten::manual_seed"), (Restored, "__setstate__"), (hooked, "aten::save")],
)
def test_torchscript_that_does_more_than_compute_is_refused_before_anything_of_it_runs(
    tmp_path, monkeypatch, make, word
):
    monkeypatch.chdir(tmp_path)
    script(make(), "net.pt")

    rejected(
        lambda: load_network(Path("net.pt")), f"its TorchScript uses {word if '__' in word else 'the operator ' + word}"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt"]


@pytest.mark.parametrize(
    "lines",
    [
        ["torch.save (images, 'leak')"],
        ["torch . save(images, 'leak')"],
        ["getattr(torch, 'save')(images, 'leak')"],
        ["f = torch.save", "f(images, 'leak')"],
        ["if True:", "  torch.save(images, 'leak')"],
    ],
)
def test_no_spelling_of_an_operator_hides_it(tmp_path, monkeypatch, lines):
    monkeypatch.chdir(tmp_path)
    script(Features(), "good.pt")
    rewritten("good.pt", "net.pt", {".py": lambda code: code.replace(b"    return", spelt(lines) + b"    return")})

    with pytest.raises(InputRejected) as caught:  # what torch does not parse is no operator either
        load_network(Path("net.pt"))

    assert "the operator aten::save" in caught.value.message or "is damaged" in caught.value.message
    assert not (tmp_path / "leak").exists()


def spelt(lines):
    """Statements of a method."""
    return "".join(f"    {line}\n" for line in lines).encode()


def test_a_member_that_is_there_twice_is_refused(trained, tmp_path):
    path = scripted(trained, tmp_path / "net.pt")
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")  # Python warns of the second name
        archive.writestr("NET/Data.pkl", b"")

    rejected(lambda: load_network(path), "holds 'NET/Data.pkl' twice")


@pytest.mark.starts
def test_what_a_network_prints_is_cut_out(tmp_path, capfd, images):
    network = load_network(script(Loud(), tmp_path / "net.pt"))

    assert network.module(images(2, size=32)).shape == (2, 4)  # a warning would be an error here
    assert capfd.readouterr() == ("", "")


@pytest.mark.starts
def test_an_endless_loop_ends_at_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "SECONDS", 1)

    rejected(lambda: load_network(script(Endless(), tmp_path / "net.pt")), "ran past 1 s", "a loop without an end")


def test_every_operator_of_torch_that_names_a_file_is_refused():
    schemas = torch._C._jit_get_all_schemas()
    files = {s.name for s in schemas if {a.name for a in s.arguments} & {"filename", "file", "file_name"}}

    assert "aten::from_file" in files
    assert [name for name in files | {"aten::save", "prim::PythonOp", "prim::rpc_sync"} if pure(name)] == []
    assert all(map(pure, ["aten::conv2d", "aten::batch_norm", "prim::If", "prim::is_cuda", "torchvision::nms"]))


def test_an_export_with_pickled_code_is_refused_and_nothing_runs(exported, tmp_path):
    mark = tmp_path / "ran"
    torch.save(((torch.ones(1),), {"x": Trap(mark)}), tmp_path / "inputs")
    bad = (tmp_path / "inputs").read_bytes()
    path = rewritten(exported, tmp_path / "bad.pt2", {"sample_inputs/model.pt": lambda _: bad})

    rejected(lambda: load_network(path), "run code from its pickled example inputs")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("part", "old", "new", "words"),
    [
        ("model.json", b'"name": "p_conv1_weight"', b'"name": "x=print()"', "the name 'x=print()'"),
        ("model.json", b"torch.ops.aten.relu.default", b"torch.hub.load", "the target 'torch.hub.load'"),
        ("model.json", b"torch.ops.aten.relu.default", b"torch.ops.aten.from_file.default", "from_file"),
        ("model.json", b"torch.ops.aten.relu.default", b"torch.ops.load_library", "load_library"),
        ("model.json", rb"\"context\"", rb"\"__enum__\"", "in_spec"),
        ("weights_config.json", b'"use_pickle": false', b'"use_pickle": true', "pickled weights"),
    ],
)
def test_an_export_with_anything_that_becomes_code_is_refused(exported, tmp_path, part, old, new, words):
    path = rewritten(exported, tmp_path / "bad.pt2", {part: lambda content: content.replace(old, new)})
    assert path.stat().st_size != exported.stat().st_size

    rejected(lambda: load_network(path), "was not loaded", words)


@pytest.mark.parametrize(
    "expression", ["__import__('os').system('ls')", "s1.__class__", "[s1 for s1 in (1,)]", "Symbol('os')"]
)
def test_only_arithmetic_is_taken_for_a_size(exported, tmp_path, expression):
    change = {"model.json": lambda c: re.sub(rb'"expr_str": "[^"]*"', f'"expr_str": "{expression}"'.encode(), c)}
    path = rewritten(exported, tmp_path / "bad.pt2", change)

    rejected(lambda: load_network(path), "the expr_str")


def test_parts_of_an_export_cannot_hide_under_a_name_that_is_skipped(exported, tmp_path):
    def hidden(content):
        config = json.loads(content)
        config["config"]["metadata"] = config["config"].pop("conv1.weight") | {"use_pickle": True}
        return json.dumps(config).encode()

    path = rewritten(exported, tmp_path / "bad.pt2", {"weights_config.json": hidden})

    rejected(lambda: load_network(path), "pickled weights")


def test_an_export_with_foreign_parts_is_refused(exported, tmp_path):
    path = rewritten(exported, tmp_path / "bad.pt2", {})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("net/data/aotinductor/model/x.so", b"")

    rejected(lambda: load_network(path), "the part data/aotinductor/model/x.so")


# --- several networks in a file, and networks of other libraries


def test_a_key_chooses_among_several_sets_of_weights(state, tmp_path):
    other = {name: torch.full_like(tensor, 2) for name, tensor in state.items()}
    torch.save({"net": state, "ema_net": other, "optimizer": {"state": {0: {"w": torch.ones(1)}}}}, tmp_path / "x.pt")

    assert read_tensors(tmp_path / "x.pt").notes == ("took 'net', not 'ema_net' (teacher.weights chooses)",)
    chosen = load_teacher(Teacher(checkpoint=tmp_path / "x.pt", weights="ema_net"))
    assert chosen.module.network.linear.weight[0, 0] == 2
    assert "took" not in chosen.summary
    rejected(lambda: read_tensors(tmp_path / "x.pt", weights="ema"), "no weights under 'ema'")


@pytest.mark.heavy
def test_metrics_beside_the_network_are_left_out_by_name(trained, state, tmp_path, images):
    lightning = {f"model.{name}": tensor for name, tensor in state.items()}
    lightning |= {"val_acc.confmat": torch.ones(10, 10), "val_acc.total": torch.tensor(5)}
    torch.save({"state_dict": lightning}, tmp_path / "x.ckpt")

    for named in ({}, {"arch": ARCH}):
        network = load_network(tmp_path / "x.ckpt", **named)
        assert network.summary.endswith("56/56 tensors matched; left out val_acc.confmat, val_acc.total")
        assert network.module(images(2, size=32)).equal(trained(images(2, size=32)))


def test_two_networks_in_a_file_are_named_with_how_to_choose(state, tmp_path):
    other = models.build("lenet5-half", classes=10, input_shape=(1, 28, 28)).state_dict()
    both = {f"student.{k}": v for k, v in other.items()} | {f"teacher.{k}": v for k, v in state.items()}
    torch.save(both, tmp_path / "x.pt")

    rejected(
        lambda: load_network(tmp_path / "x.pt"),
        "holds 2 networks: student (lenet5-half (MNIST)), teacher (resnet8-conv (CIFAR))",
        "teacher.weights=student",
    )
    assert load_network(tmp_path / "x.pt", weights="teacher").arch == ARCH
    assert load_network(tmp_path / "x.pt", weights="student").arch == "lenet5-half"


@pytest.mark.heavy
def test_weights_of_a_network_whose_layers_have_versions_load(tmp_path):
    network = models.build("torchvision/mnasnet0_5", classes=3, input_shape=(3, 64, 64))
    torch.save(network.state_dict(), tmp_path / "x.pt")

    loaded = load_network(tmp_path / "x.pt", input_shape=(3, 64, 64))

    images = torch.rand(2, 3, 64, 64)
    assert loaded.arch == "torchvision/mnasnet0_5"
    torch.testing.assert_close(loaded.module(images), network.eval()(images))


@pytest.mark.heavy
def test_names_of_timm_lead_to_timms_network_not_to_one_with_the_same_tensors(tmp_path):
    timm = pytest.importorskip("timm")
    network = timm.create_model("tf_efficientnet_b0", num_classes=5)
    path = tmp_path / "x.pt"

    torch.save(network.state_dict(), path)
    rejected(lambda: load_network(path), "timm/efficientnet_b0", "timm/tf_efficientnet_b0", error=UsageError)

    torch.save({"arch": "tf_efficientnet_b0", "state_dict": network.state_dict()}, path)
    loaded = load_network(path, input_shape=(3, 64, 64))
    images = torch.rand(1, 3, 64, 64)
    assert loaded.arch == "timm/tf_efficientnet_b0"
    torch.testing.assert_close(loaded.module(images), network.eval()(images))


def test_a_wrong_architecture_is_told_the_nearest_one_and_what_differs(tiny, tmp_path, few):
    state = models.build("resnet8-conv", classes=10, input_shape=SHAPE).state_dict()
    state["layer1.0.conv1.weight"] = torch.rand(17, 16, 3, 3)
    torch.save(state, tmp_path / "x.pt")

    rejected(
        lambda: load_network(tmp_path / "x.pt", arch="resnet14-conv"),
        "does not fit resnet14-conv",
        "resnet8-conv (CIFAR) fits 46 of 47 tensors; first mismatch: layer1.0.conv1.weight is [17, 16, 3, 3] here",
    )


@pytest.mark.parametrize("named", [{}, {"arch": ARCH}])
def test_one_logit_is_taken_as_one_of_two_classes(tmp_path, images, named):
    network = models.build(ARCH, classes=1, input_shape=SHAPE).eval()
    torch.save(network.state_dict(), tmp_path / "x.pt")

    loaded = load_network(tmp_path / "x.pt", **named)

    logit = network(images(3, size=32))
    assert loaded.classes == 2
    assert "one logit z, taken as two classes" in loaded.summary
    torch.testing.assert_close(loaded.module(images(3, size=32)), torch.cat([torch.zeros(3, 1), logit], dim=1))


@pytest.mark.starts
def test_a_black_box_of_one_logit_is_taken_as_one_of_two_classes(tmp_path, images):
    network = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 1))

    loaded = load_network(scripted(network, tmp_path / "x.pt"))

    assert loaded.classes == 2
    expected = torch.cat([torch.zeros(3, 1), network(images(3, size=32))], dim=1)
    torch.testing.assert_close(loaded.module(images(3, size=32)), expected)


@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.starts
def test_an_export_of_a_fixed_batch_says_so(tmp_path, batch):
    network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 4))
    torch.export.save(torch.export.export(network, (torch.rand(batch, *SHAPE),)), tmp_path / "x.pt2")

    rejected(lambda: load_network(tmp_path / "x.pt2"), f"takes batches of {batch} only, of images 3x32x32", "dynamic")


class OnDevice(nn.Module):
    """A tensor made on a GPU while it was traced."""

    def forward(self, images):
        return images.flatten(1) + torch.zeros(1, device="cuda")


@pytest.mark.starts
def test_what_a_network_says_of_every_size_is_told(tmp_path):
    assert not torch.cuda.is_available() or pytest.skip("the device is here")

    rejected(lambda: load_network(script(OnDevice(), tmp_path / "x.pt")), "it says: ", "was traced on a GPU")


# --- tensors that are no plain weights


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.to_sparse(), "sparse_coo"),
        (lambda t: t.to("meta"), "names without values: linear.weight"),
        (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "INT8 network"),
        (lambda t: torch.zeros(1).expand(10**12), "expanded to 1000000000000"),
        (lambda t: t.to(torch.complex64), "complex64"),
        (lambda t: t.to(torch.float8_e4m3fn), "float8_e4m3fn"),
    ],
)
def test_tensors_that_are_no_plain_numbers_are_called_what_they_are(state, tmp_path, change, words):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of some of these kinds
        torch.save(state | {"linear.weight": change(state["linear.weight"])}, tmp_path / "x.pt")

    rejected(lambda: load_network(tmp_path / "x.pt"), str(tmp_path / "x.pt"), words)


def test_pruned_layers_are_their_weights_times_their_masks(trained, state, tmp_path, images):
    network = models.build(ARCH, classes=10, input_shape=SHAPE)
    network.load_state_dict(state)
    for layer in (network.conv1, network.linear):
        prune.random_unstructured(layer, "weight", 0.5)
    torch.save(network.state_dict(), tmp_path / "x.pt")

    loaded = load_network(tmp_path / "x.pt")

    assert "2 pruned tensors, their masks multiplied in" in loaded.summary
    torch.testing.assert_close(loaded.module(images(2, size=32)), network.eval()(images(2, size=32)))


@pytest.mark.parametrize("modern", [True, False])
def test_normalised_layers_are_multiplied_out(state, tmp_path, modern, images):
    network = models.build(ARCH, classes=10, input_shape=SHAPE)
    network.load_state_dict(state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates the old form
        norm = nn.utils.parametrizations.weight_norm if modern else nn.utils.weight_norm
        norm(network.conv1)
        norm(network.linear)
        nn.init.uniform_(network.linear.parametrizations.weight.original0 if modern else network.linear.weight_g)
    torch.save(network.state_dict(), tmp_path / "x.pt")

    loaded = load_network(tmp_path / "x.pt")

    assert "2 normalised weights multiplied out" in loaded.summary
    torch.testing.assert_close(loaded.module(images(2, size=32)), network.eval()(images(2, size=32)))


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"conv1.activation_post_process.min_val": torch.ones(1)}, "prepared for quantisation-aware training"),
        ({"conv1.zero_point": torch.ones(1), "conv1.scale": torch.ones(1)}, "holds an INT8 network, with conv1.zero"),
    ],
)
def test_networks_on_their_way_to_int8_are_called_what_they_are(state, tmp_path, extra, words):
    torch.save(state | extra, tmp_path / "x.pt")

    rejected(lambda: load_network(tmp_path / "x.pt"), words, "floating point")


def test_a_card_that_asks_for_more_than_its_tensors_makes_nothing(student, tmp_path):
    good = student()
    for changes, words in (
        ({"classes": 10**12}, "classes"),
        ({"classes": 999_999}, "other shapes (linear.weight"),
        ({"input_shape": (3, 10**6, 10**6)}, "larger than any"),
        ({"arch": "wrn-1204-32"}, "missing"),
    ):
        card = {"format": 1, "arch": ARCH, "classes": 10, "input_shape": SHAPE, "mean": MEAN, "std": STD} | changes
        save_file(load_file(good), tmp_path / "bad.safetensors", metadata={"compressor": json.dumps(card)})
        rejected(lambda: load_network(tmp_path / "bad.safetensors"), words)


@pytest.mark.parametrize("length", [0x0280, 0x0380, 0x0480, 0x0580])
def test_a_header_whose_length_begins_like_a_pickle_is_still_one_of_safetensors(tmp_path, length):
    path, begins = tmp_path / "x.safetensors", length.to_bytes(8, "little")
    made = (save({"weight": torch.ones(2)}, {"a": "b" * padding}) for padding in range(length))
    path.write_bytes(next(content for content in made if content.startswith(begins)))
    assert path.read_bytes()[:2] == bytes([0x80, length >> 8])
    assert sniff(path) == Format.SAFETENSORS
    assert set(read_tensors(path).metadata["a"]) == {"b"}


def test_safetensors_with_numbers_of_a_kind_that_is_not_computed_with_are_refused(tmp_path):
    header = json.dumps({"w": {"dtype": "F8_E5M2", "shape": [2, 2], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))

    rejected(lambda: load_network(tmp_path / "x.safetensors"), "holds w as numbers of the kind F8_E5M2")


# --- training state


def test_a_training_state_comes_back_equal(tmp_path):
    state = {"epoch": 3, "rng": torch.get_rng_state(), "nested": [{"loss": 0.5, "name": None}], "done": False}
    save_state(tmp_path / "last.ckpt", state)

    read = load_state(tmp_path / "last.ckpt")

    assert torch.equal(read.pop("rng"), state.pop("rng"))
    assert read == state
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_state_that_cannot_be_written_leaves_the_old_one(tmp_path):
    save_state(tmp_path / "last.ckpt", {"epoch": 3})

    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        save_state(tmp_path / "last.ckpt", {"epoch": lambda: 4})

    assert load_state(tmp_path / "last.ckpt") == {"epoch": 3}
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_states_that_are_foreign_damaged_or_dangerous_are_refused(state, tmp_path):
    path = tmp_path / "last.ckpt"
    rejected(lambda: load_state(path), "no such file")
    torch.save(state, path)
    rejected(lambda: load_state(path), "not a training state", "--resume")
    save_state(path, {"epoch": 3, "big": torch.rand(1000)})
    content = path.read_bytes()
    path.write_bytes(content[:-200])
    rejected(lambda: load_state(path), "damaged or cut off")
    path.write_bytes(content.replace(b"version", b"Version", 1))
    with pytest.raises(CompressError):
        load_state(path)
    torch.save({"kind": "compressor training state", "version": 2, "state": {}}, path)
    rejected(lambda: load_state(path), "version 2, not 1")
    torch.save(Trap(tmp_path / "ran"), path)
    rejected(lambda: load_state(path), "getattr")
    assert not (tmp_path / "ran").exists()
