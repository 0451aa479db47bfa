"""Data sets that are objects: the forms they may have, what is read of an item, what is refused, and plug-ins."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from example_plugin.dataset import Stripes
from hypothesis import given
from hypothesis.extra import numpy as hnp
from PIL import Image
from shell import QUICK, ran, refused
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision.datasets import FakeData, ImageFolder
from torchvision.transforms import v2

from compressor.data import divided, from_objects, open_data
from compressor.data.items import Items
from compressor.data.split import Held
from compressor.errors import InputRejected, UsageError
from compressor.recipe import Data
from compressor.recipe.code import is_code

CPU = torch.device("cpu")
PLUGIN = "example_plugin.dataset:stripes"


class Listed(Dataset):
    """Items as they are given."""

    def __init__(self, items, **attributes):
        self.items = items
        self.__dict__.update(attributes)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def load(given, *, held=None, **config):
    return from_objects(given, Data(**{"workers": 0, **config}), CPU, held=held)


def open_(given, *, held=None, **config):
    return divided(load(given, held=held, **config), Data(**config), device=CPU)


def bytes_(count=12, *, channels=3, seed=0):
    """Images `[N, 6, 5, C]` and labels 0 and 1 in turns."""
    images = np.random.default_rng(seed).integers(0, 256, (count, 6, 5, channels), dtype=np.uint8)
    return images, np.arange(count) % 2


def refusal(given, kind=InputRejected, **options):
    with pytest.raises(kind) as error:
        load(given, **options)
    return error.value


def held(loaded):
    assert isinstance(loaded.train.source, Held)
    return loaded.train.source.images


# One item

FORMS = {
    "PIL": Image.fromarray,
    "array HWC": lambda image: image,
    "array CHW": lambda image: image.transpose(2, 0, 1),
    "tensor HWC": torch.from_numpy,
    "tensor CHW": lambda image: torch.from_numpy(image).permute(2, 0, 1),
    "float tensor": lambda image: torch.from_numpy(image).permute(2, 0, 1).float() / 255,
    "double array HWC": lambda image: image / 255,
    "torchvision": lambda image: v2.functional.to_dtype(v2.functional.to_image(image), torch.float32, scale=True),
}


@pytest.mark.parametrize("form", FORMS)
def test_an_image_in_any_usual_form_becomes_its_bytes(form):
    image = bytes_()[0][0]

    item = Items(Listed([(FORMS[form](image), np.int64(3))]), "train").read(0)

    assert item.pixels.dtype == np.uint8
    assert np.array_equal(item.pixels, image)
    assert (item.label, type(item.label)) == (3, int)
    assert item.rounded < 0.01


@pytest.mark.parametrize("form", [lambda image: image, torch.from_numpy, Image.fromarray])
def test_a_grey_image_of_two_axes_has_one_channel(form):
    image = bytes_()[0][0, ..., 0]

    assert np.array_equal(Items([(form(image), 0)], "train").read(0).pixels, image[..., None])


def test_where_both_ends_could_be_channels_those_of_a_tensor_come_first_and_those_of_an_array_last():
    cube = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)

    assert np.array_equal(Items([(cube, 0)], "train").read(0).pixels, cube)
    assert np.array_equal(Items([(torch.from_numpy(cube), 0)], "train").read(0).pixels, cube.transpose(1, 2, 0))


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=5)))
def test_bytes_survive_the_way_to_floats_and_back(pixels):
    image = np.concatenate([pixels[..., :1]] * 3, axis=2)

    for dtype in (torch.float32, torch.float64):
        item = Items([(torch.from_numpy(image).permute(2, 0, 1).to(dtype) / 255, 0)], "train").read(0)
        assert np.array_equal(item.pixels, image)


@pytest.mark.parametrize("label", [1, np.uint8(1), torch.tensor(1), torch.tensor([1]), np.array(1), True])
def test_labels_are_whole_numbers_of_any_type(label):
    assert Items([(bytes_()[0][0], label)], "train").read(0).label == 1


@pytest.mark.parametrize(
    ("image", "said", "hint"),
    [
        (
            torch.full((3, 4, 4), -1.5),
            "from -1.5 to -1.5, where pixels lie in [0, 1]: it is already normalised",
            "drop ",
        ),
        (torch.full((3, 4, 4), 2.64), "has values from 2.64 to 2.64, where pixels", "divide by 255"),
        (torch.full((3, 4, 4), 1.003), "has values from 1.003 to 1.003, where pixels lie in [0, 1]", "divide by 255"),
        (torch.full((3, 4, 4), float("nan")), "has values that are not finite", ""),
        (np.zeros((4, 4, 3), dtype=np.int64), "has values of type int64", "uint8"),
        (
            np.zeros((4, 4, 4), dtype=np.uint8),
            "the shape [4, 4, 4], which is neither [H, W], [H, W, 1 or 3] nor [1",
            "",
        ),
        (np.zeros((2, 3, 4, 4), dtype=np.uint8), "has the shape [2, 3, 4, 4], which is neither", ""),
        (np.zeros((3, 0, 4), dtype=np.uint8), "has the shape [3, 0, 4], without pixels", ""),
        (Image.new("F", (4, 4)), "cannot be used: pixels of kind F", ""),
        ("cat.png", "is a str, not a PIL image, an array or a tensor", ""),
    ],
)
def test_an_image_that_is_none_is_refused_with_its_index(image, said, hint):
    error = refusal(Listed([(torch.zeros(3, 4, 4), 0), (image, 1)]))

    assert error.message.startswith("the image of item 1 of train ")
    assert said in error.message
    assert hint in (error.hint or "")


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ((torch.zeros(1, 4, 4), 0.5), "the label of item 1 of train is 0.5, not a whole number"),
        ((torch.zeros(1, 4, 4), "cat"), "the label of item 1 of train is 'cat', not a whole number"),
        ((torch.zeros(1, 4, 4), torch.eye(3)[0]), "is a Tensor of shape [3], not a whole number"),
        ((torch.zeros(1, 4, 4), -1), "the label of item 1 of train is -1, and with 2 classes it must be 0 to 1"),
        ((torch.zeros(1, 4, 4), 0, "name"), "item 1 of train is 3 things, not (image, label)"),
        ({"image": 0}, "item 1 of train is a dict, not (image, label)"),
    ],
)
def test_an_item_that_is_no_image_and_class_is_refused_with_its_index(item, said):
    images = [(torch.zeros(1, 4, 4), 0), item, (torch.zeros(1, 4, 4), 1)]

    assert said in refusal(Listed(images)).message


@pytest.mark.parametrize("stream", [True, False])
def test_an_item_that_raises_is_told_with_its_index_and_its_error(stream):
    class Broken(Stripes):
        def __getitem__(self, index):
            if index == 5:
                raise KeyError("no such file")
            return super().__getitem__(index)

    def read():
        data = load(Broken(9, seed=0), held=not stream)
        return list(data.train.source.fetch([torch.tensor([4, 5])]))

    with pytest.raises(InputRejected) as error:
        read()

    assert "reading item 5 of train fails: KeyError: 'no such file' (test_data_objects.py:" in error.value.message


# Forms of a data set


def test_a_pair_of_arrays_is_a_data_set_and_its_labels_are_kept():
    images, labels = bytes_()

    for pair in ((images, labels), (torch.from_numpy(images), labels.tolist()), [images, labels]):
        loaded = load(pair)
        assert np.array_equal(held(loaded).numpy(), images)
        assert loaded.train.labels == labels.tolist()
        assert (loaded.classes, loaded.input_shape, loaded.augment) == (("0", "1"), (3, 6, 5), "crop-flip")
        assert loaded.test is loaded.validation is None


def test_a_tuple_of_two_sets_is_what_to_train_and_to_test_on():
    (images, labels), other = bytes_(8), bytes_(4, seed=1)

    for pair in (
        ((images, labels), other),
        (TensorDataset(torch.from_numpy(images), torch.from_numpy(labels)), list(zip(*other, strict=True))),
    ):
        data = open_(pair, validation=0)
        assert (len(data.train), len(data.test)) == (8, 4)
        (batch,) = data.test.batches(9)
        assert np.array_equal((batch.images * 255).round().byte().permute(0, 2, 3, 1).numpy(), other[0])


def test_a_mapping_names_its_parts_and_classes():
    loaded = load({"train": bytes_(8), "validation": bytes_(2), "test": bytes_(4), "classes": ["cat", "dog"]})

    assert loaded.classes == ("cat", "dog")
    assert [len(part.rows) for part in (loaded.train, loaded.validation, loaded.test)] == [8, 2, 4]
    assert sorted([*loaded.train.rows, *loaded.validation.rows, *loaded.test.rows]) == list(range(14))


def test_sets_of_torchvision_bring_their_classes(tmp_path):
    for number, name in enumerate(("cat", "dog")):
        for image in range(3):
            path = tmp_path / name / f"{image}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(bytes_(seed=number + image)[0][0]).save(path)

    loaded = load(ImageFolder(tmp_path, transform=v2.ToImage()))
    assert (loaded.name, loaded.source, loaded.classes) == ("ImageFolder", "object:ImageFolder", ("cat", "dog"))
    assert loaded.train.labels == [0, 0, 0, 1, 1, 1]
    assert np.array_equal(held(loaded)[0].numpy(), bytes_(seed=0)[0][0])

    fake = load(FakeData(12, (3, 8, 8), num_classes=3))
    assert (fake.classes, fake.input_shape) == (("0", "1", "2"), (3, 8, 8))


def test_a_subset_has_the_classes_of_the_whole():
    loaded = load(Subset(Stripes(30, seed=0), [0, 1, 3, 4]))

    assert loaded.classes == Stripes.classes
    assert loaded.train.labels == [0, 1, 0, 1]
    assert "train has no images of 1 classes: crossed" in loaded.notes


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        (3, ("0", "1", "2")),
        ({"dog": 1, "cat": 0, "emu": 2}, ("cat", "dog", "emu")),
        ([("tench", "Tinca tinca"), ("dog",), "emu"], ("tench, Tinca tinca", "dog", "emu")),
        (np.array(["a", "b", "c"]), ("a", "b", "c")),
    ],
)
def test_classes_are_names_a_number_or_a_map(classes, names):
    assert load({"train": bytes_(), "classes": classes}).classes == names
    assert load(Listed(list(zip(*bytes_(), strict=True)), classes=classes)).classes == names


def labelled(*labels):
    return [(torch.zeros(1, 2, 2), label) for label in labels]


@pytest.mark.parametrize(
    ("given", "said", "hint"),
    [
        (labelled(), "train has no items", ""),
        ({"train": bytes_(), "test": []}, "test has no items", ""),
        (labelled(0, 0), "all items are of one class", ""),
        (labelled(1, 2, 3), "no item of train has the label 0, and labels go up to 3", "from 0"),
        (
            {"train": labelled(1, 2), "classes": ["a", "b"]},
            "the label of item 1 of train is 2, and with 2",
            "subtract 1",
        ),
        ({"train": labelled(0, 1), "test": labelled(7)}, "no item of train has the label 2", "names of the classes"),
        ({"train": labelled(0, 1), "classes": "ab"}, "the classes are given as 'ab'", "a list of names"),
        ({"train": labelled(0, 1), "classes": ["a", "a"]}, "two classes have the name 'a'", ""),
        ({"train": labelled(0, 1), "tests": []}, "a data set has no part 'tests'", "did you mean 'test'"),
        ({"test": labelled(0, 1)}, "nothing to train on", "mapping"),
        ({"train": (np.zeros((3, 2, 2), np.uint8), [0, 1])}, "train has 3 images and 2 labels", ""),
        (np.zeros((3, 2, 2), np.uint8), "train is a ndarray, not a data set", "a pair of arrays (images, labels)"),
        (None, "train is a NoneType, not a data set", ""),
        (DataLoader(Listed(labelled(0, 1))), "train is a DataLoader", "give its .dataset"),
        ((item for item in labelled(0, 1)), "train is a generator, which can be iterated over and", "map-style"),
    ],
)
def test_what_is_no_data_set_is_refused_with_what_is_one(given, said, hint):
    error = refusal(given)

    assert said in error.message
    assert hint in (error.hint or "")


def test_an_iterable_set_is_refused_with_the_form_that_is_needed():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(labelled(0, 1))

    error = refusal(Stream())

    assert error.message == "train is a Stream, which can be iterated over and nothing else"
    assert "__len__ and __getitem__" in error.hint


def test_a_set_whose_length_fails_is_told():
    class Endless(Listed):
        def __len__(self):
            raise NotImplementedError("too many")

    assert "train has no length: NotImplementedError: too many" in refusal(Endless([])).message


# All items together


def test_sizes_that_differ_are_refused_or_brought_to_one():
    images = [(np.full((6, 6, 3), 9, np.uint8), 0), (np.full((6, 8, 3), 9, np.uint8), 1)]

    error = refusal(images)

    assert error.message == (
        "the images are not of one shape: item 1 of train is 8 x 6 pixels in colour, and others are 6 x 6 pixels in "
        "colour"
    )
    assert "--image-size" in error.hint
    assert load(images, image_size=4).input_shape == (3, 4, 4)


def test_grey_beside_colour_is_refused_or_converted():
    images = [(np.zeros((6, 6, 3), np.uint8), 0), (np.zeros((6, 6), np.uint8), 1)]

    assert "data.channels=3" in refusal(images).hint
    assert load(images, channels=3).input_shape == (3, 6, 6)
    assert load(images, channels=1).input_shape == (1, 6, 6)


def test_what_rounding_loses_is_said():
    exact = torch.tensor([0.0, 128 / 255, 1.0]).repeat(2, 1, 1, 1)
    between = exact.clone()
    between[1, 0, 0, 1] = 128.4 / 255

    assert not any("rounded" in note for note in load((exact, [0, 1])).notes)
    notes = load((between, [0, 1])).notes
    assert "pixels are rounded to 1/255, which changes item 1 of train most: by 0.40 of that" in notes


def test_a_random_transform_is_refused():
    images = torch.arange(48, dtype=torch.uint8).view(4, 3, 2, 2)
    chance = v2.RandomHorizontalFlip()
    torch.manual_seed(0)

    class Augmented(Listed):
        def __getitem__(self, index):
            return chance(self.items[index]), index % 2

    error = refusal(Augmented([*images, *images]))

    assert "differs when it is read again: its transform is random" in error.message
    assert "data.augment" in error.hint


def test_a_fingerprint_follows_the_content_and_not_the_form():
    images, labels = bytes_(40)
    tensors = TensorDataset(torch.from_numpy(images).permute(0, 3, 1, 2) / 255, torch.from_numpy(labels))
    print_ = open_((images, labels)).fingerprint

    assert open_(tensors).fingerprint == print_ == open_((images, labels)).fingerprint
    for changed in (images.copy(), images.copy()[::-1]):
        changed[0, 0, 0] ^= 1
        assert open_((changed, labels)).fingerprint != print_
    assert open_((images, 1 - labels)).fingerprint != print_


def test_in_another_order_the_same_images_are_held_out():
    images, labels = bytes_(60)
    order = np.random.default_rng(1).permutation(60)

    def tested(images, labels):
        (batch,) = open_((images, labels)).test.batches(60)
        return sorted(image.numpy().tobytes() for image in batch.images)

    assert tested(images, labels) == tested(images[order], labels[order])


def test_the_same_image_twice_has_two_names():
    images = np.zeros((6, 2, 2), np.uint8)

    names = load((images, [0, 1] * 3)).train.names

    assert len(set(names)) == 6


# Streaming


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.starts)])
def test_streamed_batches_are_those_of_the_held_set(workers):
    parts = {"train": Stripes(60, seed=0), "test": Stripes(9, seed=1)}
    resident = open_(parts)
    streamed = load(parts, held=False)
    source = replace(streamed.train.source, workers=workers)
    rows = [torch.tensor([3, 59, 0]), torch.tensor([60, 68, 4])]

    for (images, places), wanted in zip(source.fetch(rows), rows, strict=True):
        assert torch.equal(images, resident.train.source.images[wanted])
        assert places.tolist() == [0, 1, 2]
    assert streamed.train.labels == load(parts).train.labels
    assert streamed.classes == Stripes.classes


def test_labels_of_a_streamed_set_come_from_its_targets_without_its_images():
    class Counted(Stripes):
        reads = 0

        def __getitem__(self, index):
            Counted.reads += 1
            return super().__getitem__(index)

    loaded = load(Subset(Counted(1000, seed=0), range(900)), held=False)
    assert loaded.train.labels == [number % 3 for number in range(900)]
    assert Counted.reads < 100

    shifted = Counted(300, seed=0)
    shifted.target_transform = lambda label: label
    load(shifted, held=False)
    assert Counted.reads > 300


def test_targets_that_are_not_the_labels_are_refused():
    wrong = Stripes(30, seed=0)
    right = wrong[1]
    wrong.targets = wrong.targets.clone()

    class Wrong(Listed):
        pass

    items = [wrong[index] for index in range(30)]
    error = refusal(
        Wrong(items, targets=[(label + (place == 1)) % 3 for place, (_, label) in enumerate(items)]), held=False
    )

    assert error.message == f"item 1 of train has the label {right[1]}, and its targets say 2"


def test_the_fingerprint_of_a_streamed_set_follows_length_labels_and_a_sample():
    first = open_(Stripes(90, seed=0), held=False).fingerprint

    assert open_(Stripes(90, seed=0), held=False).fingerprint == first
    assert open_(Stripes(90, seed=1), held=False).fingerprint != first
    assert open_(Stripes(91, seed=0), held=False).fingerprint != first


def test_what_cannot_be_sent_to_processes_is_read_in_this_one(monkeypatch):
    stripes = Stripes(30, seed=0)
    assert load(stripes, held=False, workers=1).train.source.workers == 1

    with_lambda = Stripes(30, seed=0)
    with_lambda.transform = lambda image: image
    loaded = load(with_lambda, held=False, workers=1)
    assert loaded.train.source.workers == 0
    assert "the data set cannot be sent to loading processes and is read in this one" in loaded.notes

    monkeypatch.setattr("compressor.data.objects._SENT_LIMIT", 1000)
    assert load(stripes, held=False, workers=1).train.source.workers == 0


def test_sets_beyond_the_limit_are_streamed(monkeypatch):
    monkeypatch.setattr("compressor.data.objects.RESIDENT_LIMIT", 30 * 256 - 1)

    assert any("are read each time" in note for note in load(Stripes(30, seed=0)).notes)
    assert any("are held on cpu" in note for note in load(Stripes(29, seed=0)).notes)


# Plug-ins


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (PLUGIN, True),
        ("mydata:make", True),
        ("hf:mnist", False),
        ("folder:x", False),
        ("object:x", False),
        ("x", False),
    ],
)
def test_a_name_of_a_module_and_a_function_is_code(name, code):
    assert is_code(name) == code


def test_a_factory_gives_the_data_of_a_recipe():
    data = open_data(Data(name=PLUGIN), device=CPU)

    assert (data.name, data.source, data.classes) == ("stripes", PLUGIN, ("lying", "standing", "crossed"))
    assert [len(split) for split in (data.train, data.validation, data.test)] == [270, 30, 90]
    assert data.fingerprint == open_data(Data(name=PLUGIN), device=CPU).fingerprint
    ordered = open_data(Data(name=PLUGIN, class_order=("crossed", "lying", "standing")), device=CPU)
    assert ordered.test.labels[:3].tolist() == [1, 2, 0]


def test_a_factory_may_give_the_unlabelled_stream():
    data = open_data(Data(name=PLUGIN, unlabelled=PLUGIN), device=CPU)

    assert len(data.unlabelled) == 270  # those for validation are no images to train on


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A function that writes `mydata_N.py` in the current folder and returns its name."""
    monkeypatch.chdir(tmp_path)

    def write(text):
        name = f"mydata_{abs(hash(text))}"
        (tmp_path / f"{name}.py").write_text("import numpy as np\nIMAGES = np.zeros((20, 4, 4), np.uint8)\n" + text)
        return name

    return write


def test_a_factory_may_take_the_root_and_a_name_may_be_the_set_itself(module, tmp_path):
    name = module("def make(root='none'):\n    return {'train': (IMAGES, [0, 1] * 10), 'classes': [str(root), 'b']}\n")
    assert open_data(Data(name=f"{name}:make"), device=CPU).classes == ("none", "b")
    assert open_data(Data(name=f"{name}:make", root=tmp_path), device=CPU).classes == (str(tmp_path), "b")

    name = module("data = (IMAGES, [0, 1] * 10)\n")
    assert len(open_data(Data(name=f"{name}:data"), device=CPU).test) == 4


@pytest.mark.parametrize(
    ("text", "config", "kind", "said", "hint"),
    [
        (
            "def make():\n    raise OSError('disk gone')",
            {},
            UsageError,
            "make fails: OSError: disk gone (mydata_",
            "Dataset",
        ),
        ("def make(path): ...", {}, UsageError, "needs an argument 'path' that it is not given", "data.root as root"),
        ("def make(root): ...", {}, UsageError, "needs an argument 'root' that it is not given", "--set data.root"),
        ("def make(): ...", {"root": "."}, UsageError, "does not take data.root", "leave data.root out"),
        ("def make(): ...", {}, InputRejected, "train is a NoneType, not a data set", "torch Dataset"),
        ("", {}, UsageError, "has no 'make'", ""),
        ("import no_such_thing", {}, UsageError, "importing mydata_", "install"),
    ],
)
def test_a_factory_that_fails_is_told_in_a_sentence(module, text, config, kind, said, hint):
    with pytest.raises(kind) as error:
        open_data(Data(name=f"{module(text)}:make", **config), device=CPU)

    assert said in error.value.message
    assert hint in (error.value.hint or "")


def test_an_object_in_a_stored_recipe_is_asked_for_again():
    with pytest.raises(UsageError, match="the data set 'Stripes' is an object of Python, which no recipe can open"):
        open_data(Data(name="object:Stripes"), device=CPU)


@pytest.mark.trains
def test_a_training_on_a_plug_in_and_a_teacher_that_names_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = ["--epochs", "1", *QUICK, "--set", "train.schedule.warmup=0"]
    ran(["train", "--data", PLUGIN, "--arch", "lenet5-half", *short, "--out", "teacher"])

    assert yaml.safe_load(Path("teacher/recipe.resolved.yaml").read_text())["data"]["name"] == PLUGIN
    distil = ["distill", "--teacher", "teacher", "--student", "lenet5-half", *short]
    refused(distil, 2, f"its data are {PLUGIN}, which is code", f"--data {PLUGIN}")
    refused(["validate", "teacher"], 4, f"names code of its own, {PLUGIN}", f"--allow {PLUGIN}")


# Workers


def of_session(session):
    """The processes of a session that live, by their numbers."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, sid = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(sid) == session and state != "Z":
            found.append(int(entry.name))
    return found


@pytest.mark.slow
@pytest.mark.starts
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_loading_processes_do_not_outlive_a_training_that_is_killed(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(4):
            Image.new("RGB", (4, 4)).save(tmp_path / name / f"{number}.png")
    code = (
        "import sys, time, torch\n"
        "from compressor.data.streamed import Streamed\n"
        "if __name__ == '__main__':\n"
        "    paths = sys.argv[1:] * 50\n"
        "    source = Streamed(paths, (4, 4, 3), None, torch.device('cpu'), 1)\n"
        "    batches = source.fetch(torch.arange(len(paths)).split(2))\n"
        "    next(batches)\n"
        "    print('reading', flush=True)\n"
        "    time.sleep(600)\n"
    )
    (tmp_path / "killed.py").write_text(code)
    paths = [str(path) for path in sorted(tmp_path.rglob("*.png"))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, tmp_path / "killed.py", *paths],
        stdout=subprocess.PIPE,
        start_new_session=True,
        env=environment,
    )
    try:
        assert process.stdout.readline() == b"reading\n"
        assert len(of_session(process.pid)) >= 3  # itself, the server and a worker
        process.send_signal(signal.SIGKILL)
        process.wait()
        for _ in range(200):
            if not of_session(process.pid):
                break
            time.sleep(0.1)
        assert of_session(process.pid) == []
    finally:
        process.stdout.close()
        for left in of_session(process.pid):
            os.kill(left, signal.SIGKILL)
