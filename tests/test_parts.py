"""Several stages in one training: what they hand on, how they resume, what they freeze, and answers asked once."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from layers import trains
from shell import QUICK, ran, refused

from compressor import checkpoint
from compressor.errors import UsageError
from compressor.inputs import prepare
from compressor.pipeline import course
from compressor.pipeline.answers import answered
from compressor.pipeline.course import Course
from compressor.progress import Tell
from compressor.recipe import build, dump, load, require_runnable
from compressor.runs import record
from compressor.runs.folder import Run
from compressor.training.freezing import frozen

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


@pytest.fixture(scope="module")
@trains
def taught(tmp_path_factory):
    """A teacher of the digits."""
    folder = tmp_path_factory.mktemp("taught")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ran(["train", "--arch", "lenet5", "--data", "digits", "--epochs", "1", "--out", "teacher", *QUICK, "--quiet"])
    return folder / "teacher"


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
    going, seen = Course(prepared), []
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
    first, second = Course(prepared), Course(prepared)
    second.load_state_dict({**Course.state_dict(first), "stage": 0})
    list(first.fit(lambda epoch, start: first.source.batches(first.before + epoch, start)))

    assert (first.stage, first.before, first.epoch) == (1, 2, 4)
    assert first.state.seed != second.state.seed


@pytest.mark.trains
@pytest.mark.parametrize("stop_after", [1, 5, 6, 7, 12, 13, 23])
def test_a_run_that_is_stopped_anywhere_ends_with_the_weights_of_one_that_was_not(two, monkeypatch, stop_after):
    ran(["distill", "--recipe", "two.yaml", "--out", "whole", "--quiet"])
    steps = course.TrainingState.advance
    done = 0

    def advance(state, batch):
        nonlocal done
        if done == stop_after:
            raise KeyboardInterrupt
        done += 1
        steps(state, batch)

    whole = prepare(load(two), Tell(quiet=True), examine=False)
    going = Course(whole)
    batches = lambda epoch, start: going.source.batches(going.before + epoch, start)  # noqa: E731
    monkeypatch.setattr(course.TrainingState, "advance", advance)
    with pytest.raises(KeyboardInterrupt):
        list(going.fit(batches))
    saved = going.state_dict()
    monkeypatch.setattr(course.TrainingState, "advance", steps)
    going = Course(whole)
    going.load_state_dict(saved)
    list(going.fit(batches))

    expected = weights("whole")
    got = going.state.reported().state_dict()
    assert all(torch.equal(got[name], value) for name, value in expected.items())


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
        for batch in answered(once).batches(epoch, 0):
            with torch.no_grad():
                torch.testing.assert_close(batch.taught[0], teacher(batch.images), rtol=1e-5, atol=1e-5)


def test_a_training_on_cached_answers_is_the_training_without_and_the_teacher_is_left_alone(two, monkeypatch):
    ends = []
    for changes in (["stages.1.train.cache_teacher=false"], ["stages.1.train.cache_teacher=true"]):
        plain = ["stages.1.method={kind: kd}", "data.augment=none", *changes]
        prepared = prepare(load(two, plain), Tell(quiet=True), examine=False)
        going = Course(prepared)
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
