"""Several stages in one training: what they hand on, how they resume, what they freeze, and answers asked once."""

import re
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from shell import ran, refused, typed
from torch import nn

from compressor import checkpoint
from compressor.batch import Batch
from compressor.errors import Interrupted, UsageError
from compressor.inputs import prepare
from compressor.methods import Setting
from compressor.methods.ce import CE
from compressor.pipeline.cached_teacher import with_teacher_logits
from compressor.pipeline.compare.choosing import choices
from compressor.pipeline.smoke import _tiny
from compressor.pipeline.staged import StagedTraining
from compressor.progress import Tell
from compressor.recipe import Schedule, Training, build, dump, load, require_runnable
from compressor.runs import record
from compressor.runs.folder import Run
from compressor.training.freezing import frozen
from compressor.training.loop import TrainingState

TWO = """
recipe: 1
name: two
data: {name: digits, batch_size: 256}
teacher: {checkpoint: teacher}
student: {arch: lenet5-half}
stages:
  - method: {kind: ce}
    train: {epochs: 2, lr: 0.05, schedule: {kind: constant}}
  - method: {kind: kd, features: [{kind: fitnet, student: NAME, teacher: NAME}]}
    train: {epochs: 2, lr: 0.02, optimizer: adamw, schedule: {kind: constant}, freeze: [FROZEN]}
export: []
validate: {boundary_samples: 8, attack_samples: 8, similarity_images: 4}
"""


@pytest.fixture
def two(taught, tmp_path, monkeypatch):
    """A recipe of two stages in the working folder."""
    from compressor import models

    names = [name for name, _ in models.build("lenet5-half", classes=10, input_shape=(1, 8, 8)).named_modules()]
    text = TWO.replace("checkpoint: teacher", f"checkpoint: {taught}").replace("NAME", names[-1])
    (tmp_path / "two.yaml").write_text(text.replace("FROZEN", names[1]))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "two.yaml"


def weights(run):
    return checkpoint.load_network(Run(Path(run)).student, arch="lenet5-half").module.state_dict()


def test_a_recipe_has_stages_or_method_and_train_and_the_last_stage_is_what_both_say(two):
    recipe = load(two)

    assert [part.method.kind for part in recipe.parts] == ["ce", "kd"]
    assert (recipe.method.kind, recipe.train.lr, recipe.epochs) == ("kd", 0.02, 4)
    assert load_text(dump(recipe), two) == recipe
    assert not {"method", "train"} & recipe.model_dump().keys()
    changed = recipe.model_copy(update={"train": recipe.train.model_copy(update={"epochs": 7})})
    assert load_text(dump(changed), two).epochs == 9
    alone = build({"student": {"arch": "lenet5"}}, base=two.parent)
    assert (alone.parts, "stages" in alone.model_dump()) == ((alone,), False)


def load_text(text, beside):
    path = beside.with_name("again.yaml")
    path.write_text(text)
    return load(path)


def test_options_of_method_and_train_change_the_last_stage(two):
    recipe = load(two, ["train.epochs=5", "method.temperature=9", "stages.0.train.lr=0.5"])

    assert [part.train.epochs for part in recipe.parts] == [2, 5]
    assert recipe.method.temperature == 9
    assert recipe.parts[0].train.lr == 0.5
    with pytest.raises(UsageError, match="stands beside method or train"):
        load_text(two.read_text() + "train: {epochs: 3}\n", two)
    with pytest.raises(UsageError, match=r"unknown key stages\.1\.train\.epoch"):
        load(two, ["train.epoch=5"])


@pytest.mark.trains
def test_stages_follow_each_other_epochs_count_on_and_the_record_names_them(two):
    ran(["distill", "--recipe", "two.yaml", "--out", "run", "--quiet"])

    rows = Run(Path("run")).epochs()
    assert [(row["epoch"], row["stage"]) for row in rows] == [(1, 1), (2, 1), (3, 2), (4, 2)]
    assert [set(row["losses"]) for row in rows] == [{"ce"}] * 2 + [{"ce", "kd", *rows[3]["losses"]}] * 2
    assert [row["lr"] for row in rows] == [0.05, 0.05, 0.02, 0.02]
    training = record.read(Path("run")).training
    assert (training.method, training.epochs) == ("kd", 4)
    assert [(stage.method, stage.epochs, len(stage.frozen)) for stage in training.stages] == [
        ("ce", 2, 0),
        ("kd", 2, 1),
    ]


def test_what_a_stage_hands_on_is_the_student_and_frozen_modules_stay_as_they_were(two):
    prepared = prepare(load(two), Tell(quiet=True), examine=False)
    going, seen = StagedTraining(prepared), []
    for _ in going.fit(lambda epoch, start: going.source.batches(going.before + epoch, start)):
        seen.append({name: value.clone() for name, value in going.state.student.state_dict().items()})

    path = going.here.recipe.train.freeze[0]
    held = [name for name in seen[0] if name.startswith(f"network.{path}.")]
    assert held
    assert all(torch.equal(seen[1][name], seen[3][name]) for name in held)
    assert any(not torch.equal(seen[0][name], seen[1][name]) for name in held)
    moved = [name for name in seen[1] if name not in held and seen[1][name].is_floating_point()]
    assert any(not torch.equal(seen[1][name], seen[2][name]) for name in moved)


def test_stages_draw_other_chances_and_meet_the_images_in_another_order(two):
    prepared = prepare(load(two), Tell(quiet=True), examine=False)
    first, second = StagedTraining(prepared), StagedTraining(prepared)
    second.load_state_dict({**StagedTraining.state_dict(first), "stage": 0})
    list(first.fit(lambda epoch, start: first.source.batches(first.before + epoch, start)))

    assert (first.stage, first.before, first.epoch) == (1, 2, 4)
    assert first.state.seed != second.state.seed


class Stopped(Exception):
    """What ends a training in a test."""


@contextmanager
def stopping(after, error):
    """End trainings before the step that follows `after` others."""
    advance, done = TrainingState.advance, 0

    def counted(state, batch):
        nonlocal done
        if done == after:
            raise error
        done += 1
        advance(state, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingState, "advance", counted)
        yield


def to_the_end(going):
    """Train what is left and return the weights."""
    list(going.fit(lambda epoch, start: going.source.batches(going.before + epoch, start)))
    return going.state.reported().state_dict()


def test_a_training_that_is_stopped_at_any_step_ends_with_the_weights_of_one_that_was_not(two):
    prepared = prepare(load(two), Tell(quiet=True), examine=False)
    expected = to_the_end(StagedTraining(prepared))

    for after in (0, 1, 5, 6, 11, 12, 13, 17, 18, 23):  # of 6 steps an epoch, 12 a stage
        going = StagedTraining(prepared)
        with stopping(after, Stopped()), pytest.raises(Stopped):
            to_the_end(going)
        resumed = StagedTraining(prepared)
        resumed.load_state_dict(going.state_dict())
        assert 12 * resumed.stage + resumed.state.step == after
        found = to_the_end(resumed)
        assert all(torch.equal(found[name], value) for name, value in expected.items()), after


@pytest.mark.trains
@pytest.mark.parametrize("after", [8, 15])
def test_the_resume_of_a_run_goes_on_in_the_stage_where_it_stopped(two, after):
    ran(["distill", "--recipe", "two.yaml", "--out", "whole", "--quiet"])
    with stopping(after, Interrupted("stopped")):
        assert typed(["distill", "--recipe", "two.yaml", "--out", "run", "--quiet"]).code == 130
    said = ran(["distill", "--resume", "run"]).err

    assert f"resuming after {after // 6} of 4 epochs" in said
    rows = [
        [(row["epoch"], row["stage"], row["losses"]) for row in Run(Path(run)).epochs()] for run in ("whole", "run")
    ]
    assert rows[0] == rows[1]
    assert all(torch.equal(weights("run")[name], value) for name, value in weights("whole").items())


def test_a_compared_file_may_bring_stages_and_options_reach_their_last(two):
    recipe = load(two).parts[-1]
    bare = recipe.model_copy(update={"train": recipe.train.model_copy(update={"freeze": ()})})

    chosen = choices(bare, ["kd", str(two)], [], {"train.lr": [0.5, 0.25]})
    found = [chosen.recipe(cell) for cell in chosen.cells(["lenet5-half"], [0])]

    assert [len(each.parts) for each in found] == [1, 1, 2, 2]
    assert [each.train.lr for each in found] == [0.5, 0.25] * 2
    assert [each.parts[0].train.lr for each in found[2:]] == [0.05, 0.05]


def test_a_tiny_recipe_has_its_stages_too(two):
    tiny = _tiny(load(two))

    assert [(part.method.kind, part.train.epochs, part.train.freeze) for part in tiny.parts] == [
        ("ce", 1, ()),
        ("kd", 1, ()),
    ]
    assert tiny.parts[1].method.features == ()


def test_frozen_batchnorm_keeps_parameters_and_statistics():
    torch.manual_seed(0)
    student = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 36, 2))
    before = {name: value.clone() for name, value in student.state_dict().items()}
    setting = Setting(student, [], 2, (1, 8, 8), 8, torch.ones(1), torch.device("cpu"))
    config = Training(epochs=1, lr=0.1, schedule=Schedule(kind="constant"), freeze=("1",), channels_last=False)
    state = TrainingState(student, CE().build(setting), config, seed=0, device=torch.device("cpu"), steps_per_epoch=1)

    state.enter_training()
    state.advance(Batch(torch.rand(8, 1, 8, 8), torch.arange(8) % 2, torch.arange(8)))

    after = student.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items() if name.startswith("1."))
    assert not torch.equal(after["0.weight"], before["0.weight"])
    assert student.training


def test_a_freeze_of_what_is_not_there_or_of_everything_is_refused(two):
    student = prepare(load(two), Tell(quiet=True), examine=False).new_student()
    names = [name for name, _ in student.network.named_children()]

    with pytest.raises(UsageError, match="the network has no module 'bn9'"):
        frozen(student, ["bn9"])
    with pytest.raises(UsageError, match=r"train\.freeze holds all of the student: "):
        frozen(student, names)
    refused(
        ["distill", "--recipe", "two.yaml", "--out", "run", "--set", "stages.1.train.freeze=[no_such_layer]"],
        2,
        "the network has no module 'no_such_layer'",
    )
    assert not Path("run").exists()


# Answers that are asked once


def cached(two, **data):
    values = ["method={kind: kd}", "train.freeze=[]", "train.cache_teacher=true", "data.augment=none"]
    return load(two, values + [f"data.{key}={value}" for key, value in data.items()])


def test_cached_answers_are_those_of_asking_each_time(two):
    recipe = cached(two)
    require_runnable(recipe)
    whole = prepare(recipe, Tell(quiet=True), examine=False)
    once = replace(whole, recipe=recipe.parts[-1])
    teacher = once.teachers[0].module.eval()

    for epoch in (0, 1):
        for batch in with_teacher_logits(once).batches(epoch, 0):
            with torch.no_grad():
                torch.testing.assert_close(batch.taught[0], teacher(batch.images), rtol=1e-5, atol=1e-5)


def test_a_training_on_cached_answers_is_the_training_without_and_the_teacher_is_left_alone(two, monkeypatch):
    ends = []
    for changes in (["stages.1.train.cache_teacher=false"], ["stages.1.train.cache_teacher=true"]):
        plain = ["stages.1.method={kind: kd}", "data.augment=none", *changes]
        prepared = prepare(load(two, plain), Tell(quiet=True), examine=False)
        going = StagedTraining(prepared)
        list(going.fit(lambda epoch, start: going.source.batches(going.before + epoch, start)))  # noqa: B023
        ends.append(going.state.reported().state_dict())

    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["data.augment=crop"], "augmented images are others in every epoch"),
        (["data.augment=auto"], "augmented images are others in every epoch"),
        (["method={kind: bss}"], "train.cache_teacher is not for method bss, which asks its teacher more than logits"),
        (
            ["method.features=[{kind: at, student: a, teacher: a}]"],
            "keeps logits, and method.features compares inner outputs",
        ),
    ],
)
def test_answers_are_not_cached_where_they_would_be_others(two, changes, words):
    recipe = cached(two)
    values = recipe.model_dump(mode="json", by_alias=True)

    with pytest.raises(UsageError, match=re.escape(words)):
        require_runnable(build(values, changes, base=two.parent))
