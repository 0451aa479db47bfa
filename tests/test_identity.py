"""Identity before trust: a run is gone on with, and measured, only with what it was trained from."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from layers import trains
from PIL import Image
from shell import ran, refused

from compressor import checkpoint
from compressor.errors import Interrupted
from compressor.methods import Needs
from compressor.methods.ce import CE
from compressor.pipeline import epochs, resume, train
from compressor.progress import Tell
from compressor.recipe import build
from compressor.runs import record
from compressor.runs.folder import Run

SHORT = ["--epochs", "1", "--quiet"]
QUICK = ["--epochs", "20", "--set", "train.lr=0.05", "--quiet"]


def draw(folder: Path, split: str, count: int) -> None:
    """Draw images of two classes that anyone can tell apart."""
    generator = np.random.default_rng(len(split))
    for label, level in (("dark", 40), ("light", 200)):
        place = folder / split / label
        place.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = generator.integers(level - 30, level + 30, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"{len(list(place.iterdir()))}-{number}.png")


@pytest.fixture(scope="module")
@trains
def distilled(tmp_path_factory) -> Path:
    """A folder with images, a run that trained a teacher on them, and a run that distilled it."""
    place = tmp_path_factory.mktemp("identity")
    before = Path.cwd()
    os.chdir(place)
    try:
        draw(place / "images", "train", 12)
        draw(place / "images", "test", 6)
        data = ["--data", "folder:images", "--batch-size", "8"]
        ran(["train", "--arch", "lenet5-half", *data, "--out", "teacher", *QUICK])
        student = ["--student", "lenet5-half", "--teacher", "teacher/student/student.safetensors", "--seed", "1"]
        ran(["distill", *student, *data, "--out", "run", *QUICK])
    finally:
        os.chdir(before)
    return place


@pytest.fixture
def place(distilled, tmp_path, monkeypatch) -> Path:
    """A copy of it, to work in; the data's path is the original's, so it is put back into place."""
    shutil.copytree(distilled, tmp_path / "copy", symlinks=True)
    kept = tmp_path / "kept"
    distilled.rename(kept)
    (tmp_path / "copy").rename(distilled)
    monkeypatch.chdir(distilled)
    yield distilled
    shutil.rmtree(distilled)
    kept.rename(distilled)


COMMANDS = (["validate", "run"], ["bench", "run"], ["export", "run", "--format", "onnx"])


@pytest.mark.parametrize("command", COMMANDS)
def test_a_run_is_not_measured_on_other_images(place, command):
    before = (place / "run/result.json").read_bytes()
    draw(place / "images", "test", 3)

    refused([*command, "--quiet"], 4, "the data of run are not those it was trained on", "--from train")

    assert (place / "run/result.json").read_bytes() == before


@pytest.mark.parametrize("command", COMMANDS)
def test_a_run_is_not_measured_against_another_teacher(place, command):
    teacher = place / "teacher/student/student.safetensors"
    ran(["train", "--arch", "lenet5-half", "--data", "folder:images", "--out", "other", "--seed", "7", *QUICK])
    shutil.copy(place / "other/student/student.safetensors", teacher)

    refused([*command, "--quiet"], 4, "the teacher of run is not the one it was trained with", "--from train")


def test_no_teacher_of_several_may_change(place):
    ran(["train", "--arch", "lenet5-half", "--data", "folder:images", "--out", "second", "--seed", "3", *QUICK])
    names = [f"{name}/student/student.safetensors" for name in ("teacher", "second")]
    teachers = ", ".join(f"{{checkpoint: {name}}}" for name in names)
    (place / "avg.yaml").write_text(
        "recipe: 1\nstudent: {arch: lenet5-half}\ndata: {name: 'folder:images', batch_size: 8}\n"
        f"teachers: [{teachers}]\nmethod: {{kind: avg}}\n"
    )
    ran(["distill", "--recipe", "avg.yaml", "--out", "both", *QUICK, "--set", "train.lr=0.005"])
    ran(["validate", "both", "--quiet"])
    shutil.copy(place / names[0], place / names[1])

    refused(["validate", "both", "--quiet"], 4, "the teacher of both is not the one it was trained with")


def test_a_student_that_is_not_the_recorded_one_is_not_measured(place):
    shutil.copy(place / "teacher/student/student.safetensors", place / "run/student/student.safetensors")

    refused(["validate", "run", "--quiet"], 4, "is not the student that result.json tells of")


def test_what_was_made_by_hand_is_known_to_be_measured(place):
    ran(["validate", "run", "--quiet"])
    ran(["export", "run", "--format", "onnx", "--quiet"])

    stages = json.loads((place / "run/stages.json").read_text())

    assert stages["train"]["finished"]
    assert stages["export"]["finished"]
    assert "validate" not in stages  # it was done before there was a file


# A training that is cut short at the wrong moment.


def recipe():
    values = {
        "data": {"name": "digits", "batch_size": 647},
        "student": {"arch": "lenet5-half"},
        "method": {"kind": "ce"},
        "train": {"epochs": 3, "lr": 0.05, "schedule": {"kind": "constant"}},
    }
    return build(values, [], base=Path.cwd())


def student_of(run: Run) -> bytes:
    return run.student.read_bytes()


@pytest.fixture(scope="module")
@trains
def undisturbed(tmp_path_factory) -> Run:
    return train(recipe(), Tell(quiet=True), out=tmp_path_factory.mktemp("undisturbed") / "run", latest=False)[1]


def test_a_signal_after_the_last_batch_ends_with_130_and_is_resumed(tmp_path, monkeypatch, undisturbed):
    original = epochs._validation_top1

    def signalled(prepared, state):
        if state.epoch == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(prepared, state)

    monkeypatch.setattr(epochs, "_validation_top1", signalled)
    with pytest.raises(Interrupted, match="in epoch 3 of 3") as stopped:
        train(recipe(), Tell(quiet=True), out=tmp_path / "run", latest=False)
    assert stopped.value.exit_code == 130
    assert not (tmp_path / "run" / record.NAME).exists()

    _, run = resume(tmp_path / "run", Tell(quiet=True))

    assert student_of(run) == student_of(undisturbed)


@pytest.mark.parametrize(("killed_in", "at"), [("save_weights", 1), ("save_state", 1), ("save_state", 2)])
def test_a_kill_between_two_files_of_an_epoch_loses_nothing(tmp_path, monkeypatch, undisturbed, killed_in, at):
    original, calls = getattr(checkpoint, killed_in), []

    class Killed(BaseException):
        pass

    def killed(*arguments, **options):
        calls.append(1)
        if len(calls) == at:
            raise Killed
        return original(*arguments, **options)

    monkeypatch.setattr(checkpoint, killed_in, killed)
    with pytest.raises(Killed):
        train(recipe(), Tell(quiet=True), out=tmp_path / "run", latest=False)
    monkeypatch.undo()

    result, run = resume(tmp_path / "run", Tell(quiet=True))

    assert student_of(run) == student_of(undisturbed)
    assert run.best.read_bytes() == undisturbed.best.read_bytes()
    assert result.training.best_epoch == record.read(undisturbed.folder).training.best_epoch


@pytest.mark.trains
def test_a_run_is_not_gone_on_with_on_another_stream(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "there", "train", 4)
    draw(tmp_path / "there", "test", 4)
    monkeypatch.setattr(CE, "needs", Needs(teachers=0, most=0, target=True))
    ran(["train", "--arch", "lenet5-half", "--data", "digits", "--target", "folder:there", "--out", "run", *SHORT])
    told = record.read(tmp_path / "run").data
    assert (told.unlabelled, told.target, told.target_test) == (8, f"folder:{tmp_path}/there", None)
    ran(["validate", "run", "--quiet"])

    draw(tmp_path / "there", "train", 1)

    refused(["validate", "run", "--quiet"], 4, "the data of run are not those it was trained on", "--from train")
    refused(["train", "--resume", "run", "--quiet"], 4, "the data of run are not those it was trained on")
