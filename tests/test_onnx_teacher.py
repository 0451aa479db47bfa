"""Teachers that only answer, and teachers whose classes are not the data's one for one."""

import json
from pathlib import Path

import pytest
import torch
from shell import QUICK, ran, refused

from compressor import checkpoint, models
from compressor.data import open_data
from compressor.errors import InputRejected
from compressor.methods.taps import linear_head, unwrap
from compressor.recipe import Data, Teacher

GRAPH = "runs/student-1/export/student.fp32.onnx"
DISTILL = ["distill", "--teacher", GRAPH, "--student", "lenet5-half", "--data", "digits", "--epochs", "2"]


@pytest.mark.trains
@pytest.mark.starts
def test_an_onnx_file_teaches_and_the_run_goes_on_with_it(here):
    ran([*DISTILL, "--method", "kd", "--name", "taught", *QUICK])
    record = json.loads(ran(["validate", "--json"]).out)

    student, teacher = record["student"], record["teacher"]
    assert teacher["arch"] is None
    assert 0 < student["agreement"] <= 1
    assert student["pgd_top1"] is not None  # made on the student
    assert [student[name] for name in ("boundary_agreement", "magsim", "angsim")] == [None] * 3
    assert record["data"]["boundary_samples"] is None
    ran(["export", "--format", "onnx", "--precision", "int8"])  # calibrated and proved at the student's own boundary
    again = ran(["distill", "--resume", "runs/taught-1"])
    assert "resuming after 2 of 2 epochs" in again.err


@pytest.mark.starts
@pytest.mark.parametrize("method", ["bss", "adaad", "dgad"])
def test_a_method_that_differentiates_its_teacher_refuses_one(here, method):
    words = f"method {method} needs gradients through its teacher, and an ONNX file only answers"
    refused([*DISTILL, "--method", method, *QUICK], 4, words, "give the checkpoint that it was exported from")


@pytest.mark.starts
def test_losses_between_inner_outputs_refuse_one(here):
    features = ["--set", "method.features=[{kind: fitnet, student: conv1, teacher: conv1}]"]
    refused([*DISTILL, "--method", "kd", *features, *QUICK], 2, "no module 'conv1'", "as an ONNX file has not")
    refused([*DISTILL, "--method", "kd", "--set", "method.soft.kind=wkd-l", *QUICK], 2, "last linear layer")


@pytest.mark.starts
def test_what_says_how_to_open_a_checkpoint_is_refused_for_one(here):
    refused([*DISTILL, "--teacher-arch", "lenet5", *QUICK], 2, "brings its own architecture", "leave teacher.arch out")


@pytest.mark.starts
def test_the_names_of_the_classes_are_read_from_a_file_of_ours(here):
    network = checkpoint.load_teacher(Teacher(checkpoint=Path(GRAPH)))

    assert network.class_names == tuple("0123456789")
    assert not network.differentiable


# Classes by their names


@pytest.fixture
def digits():
    return open_data(Data(name="digits"), device=torch.device("cpu"))


def renamed(here, names, rows):
    """The trained teacher with some of its classes, by number, under some names; -1 is a class that it never tells."""
    source = checkpoint.load_network(here / "runs/teacher-1/student/student.safetensors")
    network = models.build("lenet5", classes=len(names), input_shape=source.input_shape)
    state = unwrap(source.module).state_dict()
    last, _ = linear_head(source.module, 10)
    for end, low in ((".weight", 0.0), (".bias", -1e4)):
        own = state[last + end]
        never = torch.full_like(own[:1], low)
        state[last + end] = torch.cat([own[row : row + 1] if row >= 0 else never for row in rows])
    network.load_state_dict(state)
    path = here / "renamed.safetensors"
    about = {"mean": source.mean, "std": source.std, "data": None, "class_names": names}
    checkpoint.save_student(path, network, arch="lenet5", classes=len(names), input_shape=source.input_shape, **about)
    return source, checkpoint.load_network(path)


def test_classes_in_another_order_are_put_in_the_datas_and_it_is_said(here, digits):
    rows = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    source, network = renamed(here, [str(row) for row in rows], rows)
    checked = checkpoint.check_teacher(network, digits)

    images = next(iter(digits.test.batches(32))).images
    assert torch.equal(checked.network.module(images), source.module(images))
    assert checked.top1 == checkpoint.check_teacher(source, digits).top1
    assert checked.sentence.endswith("; its classes are put in the data's order by their names")
    assert linear_head(checked.network.module, 10) is None  # its rows are not in the order of the logits


def test_more_classes_than_the_datas_are_chosen_from_by_their_names(here, digits):
    names = ["ten", *"9876543210", "eleven"]
    source, network = renamed(here, names, [-1, *range(9, -1, -1), -1])
    checked = checkpoint.check_teacher(network, digits)

    images = next(iter(digits.test.batches(32))).images
    torch.testing.assert_close(checked.network.module(images), source.module(images))
    assert checked.network.classes == 10
    assert checked.sentence.endswith("; by their names, 10 of its 12 classes are used")
    again, note = checkpoint.by_names(checked.network, digits.classes)
    assert again is checked.network
    assert note == ""


def test_other_classes_are_refused_with_those_that_it_lacks(here, digits):
    _, network = renamed(here, [f"letter {k}" for k in range(12)], [-1, *range(10), -1])

    with pytest.raises(InputRejected, match="the teacher has 12 classes, but digits has 10") as error:
        checkpoint.check_teacher(network, digits)
    assert "its file names none that is called '0', '1', '2'" in (error.value.hint or "")


@pytest.mark.trains
def test_a_student_of_a_mapped_teacher_agrees_with_it_and_resumes(here):
    rows = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    renamed(here, [str(row) for row in rows], rows)
    arguments = ["--teacher", "renamed.safetensors", "--student", "lenet5-half", "--data", "digits", "--method", "kd"]
    told = ran(["distill", *arguments, "--epochs", "8", "--name", "mapped", *QUICK]).err
    assert "put in the data's order by their names" in told

    record = json.loads(ran(["validate", "--json"]).out)
    assert record["student"]["agreement"] > 0.5  # also when the run is opened again, where nothing is examined
