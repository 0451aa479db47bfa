"""From a recipe to what it names: several teachers, and whichever batches the method needs."""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import yaml
from safetensors.torch import load_file
from shell import ran
from torch.nn import functional as F

from compressor.errors import InputRejected
from compressor.inputs import prepare
from compressor.methods import Config, Needs, Objective, Update
from compressor.pipeline.staged import new_state
from compressor.progress import Tell
from compressor.recipe import Data, Recipe, Student, Teacher, Training, build, dump, require_runnable

QUIET = Tell(quiet=True)


class Everything(Config):
    """Two teachers, two views and an unlabelled stream."""

    kind: str = "tests:Everything"
    needs: ClassVar[Needs] = Needs(teachers=2, most=None, unlabelled=True, views=3, gradients=True)

    def build(self, setting):
        return Averaged(setting)


class Averaged(Objective):
    def updates(self, batch, moment):
        assert len(self.setting.teachers) == 2
        terms = {}
        for number, images in enumerate((batch.images, *batch.views, batch.unlabelled)):
            taught = sum(teacher(images) for teacher in self.setting.teachers) / 2
            terms[f"mse{number}"] = F.mse_loss(self.setting.student(images), taught)
        yield Update(terms)


class NoData(Config):
    """Noise in place of images."""

    kind: str = "tests:NoData"
    needs: ClassVar[Needs] = Needs(data=False)

    def build(self, setting):
        return Noise(setting)


class Noise(Objective):
    def updates(self, batch, moment):
        assert batch.images.shape == (0, *self.setting.input_shape)
        images = torch.rand(4, *self.setting.input_shape, generator=moment.generator)
        yield Update({"mse": F.mse_loss(self.setting.student(images), self.setting.teachers[0](images))})


def recipe(method, teachers, *, epochs=1, steps_per_epoch=None, **data):
    return Recipe(
        data=Data(name="digits", batch_size=256, **data),
        teachers=tuple(Teacher(checkpoint=Path("runs", name)) for name in teachers),
        student=Student(arch="lenet5-half"),
        method=method,
        train=Training(epochs=epochs, steps_per_epoch=steps_per_epoch),
    )


def test_all_teachers_are_opened_and_the_first_is_the_reference(here):
    wanted = recipe(Everything(), ["teacher-1", "student-1"], unlabelled="digits", unlabelled_batch=100)
    require_runnable(wanted)
    prepared = prepare(wanted, QUIET)

    assert [teacher.arch for teacher in prepared.teachers] == ["lenet5", "lenet5-half"]
    assert prepared.teacher is prepared.teachers[0]
    written = yaml.safe_load(dump(prepared.recipe))
    assert [each["arch"] for each in written["teachers"]] == ["lenet5", "lenet5-half"]
    assert prepared.recipe.teacher == prepared.recipe.teachers[0]

    state = new_state(prepared)
    state.enter_training()
    batch = next(iter(prepared.source.batches(0, 0)))
    state.advance(batch)
    state.losses.read(0)
    assert state.losses.means().keys() == {"mse0", "mse1", "mse2", "mse3"}
    assert (len(batch.images), len(batch.views), len(batch.unlabelled)) == (256, 2, 100)


def test_batches_of_both_streams_resume_and_are_different_images(here):
    prepared = prepare(recipe(Everything(), ["teacher-1"] * 2, unlabelled="digits"), QUIET, examine=False)
    batches = prepared.source.batches
    whole, late = list(batches(1, 0)), list(batches(1, 3))
    assert len(whole) == prepared.source.steps
    for ours, theirs in zip(whole[3:], late, strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.unlabelled, theirs.unlabelled)
    assert all(len(batch.unlabelled) == 256 for batch in whole)  # whole batches, also where the labelled end
    assert not torch.equal(whole[0].images, whole[0].unlabelled)


def test_a_method_without_data_gets_as_many_empty_batches_as_the_recipe_says(here):
    wanted = recipe(NoData(), ["teacher-1"], steps_per_epoch=3)
    require_runnable(wanted)
    prepared = prepare(wanted, QUIET, examine=False)
    state = new_state(prepared)
    state.enter_training()
    for batch in prepared.source.batches(0, 0):
        state.advance(batch)
    epoch = state.finish_epoch()
    assert (epoch.steps, epoch.images, set(epoch.losses)) == (3, 3 * 256, {"mse"})
    assert state.objective.setting.samples == 0


def test_a_teacher_without_gradients_is_refused_where_the_method_needs_them(here, monkeypatch):
    from compressor import checkpoint

    opened = checkpoint.load_teacher

    def closed(teacher):
        network = opened(teacher)
        network.module.forward = torch.no_grad()(network.module.forward)
        return network

    monkeypatch.setattr(checkpoint, "load_teacher", closed)
    with pytest.raises(InputRejected, match="no gradient passes through teacher 1"):
        prepare(recipe(Everything(), ["teacher-1"] * 2, unlabelled="digits"), QUIET, examine=False)
    prepare(recipe(NoData(), ["teacher-1"], steps_per_epoch=3), QUIET, examine=False)


@pytest.mark.trains
def test_a_teacher_that_nothing_tells_the_images_of_is_tried_with_those_of_the_data(tmp_path, monkeypatch):
    """28x28 networks of one's own beside data of another size (T2)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wide.py").write_text(
        "from torch import nn\n\n\ndef make(classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
    )
    ran(["train", "--arch", "wide:make", "--data", "digits", "--epochs", "12", "--lr", "0.1", "--out", "run", "-q"])
    weights = load_file(tmp_path / "run/student/student.safetensors")
    torch.save(weights, tmp_path / "bare.pt")

    network = prepare(
        build(
            {
                "data": {"name": "digits"},
                "teacher": {"checkpoint": "bare.pt", "arch": "wide:make"},
                "student": {"arch": "lenet5-half"},
                "method": {"kind": "kd"},
            },
            base=tmp_path,
        ),
        Tell(quiet=True),
    ).teacher

    assert network.input_shape == (1, 8, 8)


def test_initial_weights_of_other_classes_give_all_but_the_head(here, monkeypatch):
    """The file has ten classes; the data are made to have three of them."""
    start = Student(arch="lenet5-half", init=Path("runs/student-1/student/student.safetensors"))
    wanted = recipe(NoData(), ["teacher-1"], steps_per_epoch=1).model_copy(update={"student": start})
    prepared = prepare(wanted, QUIET, examine=False)
    weights = load_file(start.init)
    whole = prepared.new_student().network.state_dict()
    assert prepared.new_weights(prepared.new_student().network) == ()
    assert all(torch.equal(whole[name], tensor) for name, tensor in weights.items())

    fewer = replace(prepared, data=replace(prepared.data, classes=("a", "b", "c")))
    torch.manual_seed(0)
    student = fewer.new_student()
    head = fewer.new_weights(student.network)
    own = student.network.state_dict()
    assert [own[name].shape[0] for name in head] == [3, 3]
    assert all(torch.equal(own[name], tensor) for name, tensor in weights.items() if name not in head)
    assert len(head) < len(weights)
    assert student.mean.flatten().tolist() == pytest.approx(prepared.initial.mean)
    torch.manual_seed(1)
    assert not torch.equal(fewer.new_student().network.state_dict()[head[0]], own[head[0]])  # the seed decides it
