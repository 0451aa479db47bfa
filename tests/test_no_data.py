"""`--data none`: a student of a teacher alone, what is measured of it, and what is refused."""

import json

import numpy as np
import pytest
import torch
from shell import ran, refused, typed

from compressor import checkpoint
from compressor.data import open_data, without_images
from compressor.errors import CompressError
from compressor.measure.made import (
    BOUNDARY,
    GENERATED,
    NOISE,
    keep_generated,
    kept_count,
    made_images,
    read_generated,
    stand_in,
)
from compressor.recipe import Data
from exporters.pytorch import TorchRunner

CPU = torch.device("cpu")
TEACHER = "runs/teacher-1"
NONE = ["distill", "--teacher", TEACHER, "--student", "lenet5-half", "--data", "none"]
SMALL = [
    *("--set", "method.generator.network={kind: upsample, noise: 8, width: 4}"),
    *("--set", "train.steps_per_epoch=4", "--batch-size", "16", "--epochs", "2", "--lr", "0.01"),
    *("--set", "train.schedule={kind: constant}", "--quiet"),
]


@pytest.fixture(scope="module")
def trained(work, tmp_path_factory):
    """A run without data, of the digits' teacher, that every test may read."""
    folder = tmp_path_factory.mktemp("none") / "run"
    (folder.parent / "runs").mkdir()
    (folder.parent / "runs" / "teacher-1").symlink_to(work / TEACHER)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        ran([*NONE, "--method", "dfad", *SMALL, "--out", str(folder)])
        ran(["export", str(folder), "--format", "onnx", "--quiet"])
    return folder


# What is measured without images.


@pytest.mark.trains
def test_a_run_without_data_says_agreement_and_no_accuracy(trained):
    result = json.loads((trained / "result.json").read_text())
    student, data = result["student"], result["data"]
    assert data["source"] == "none"
    assert (data["train"], data["validation"], data["test"]) == (0, 0, 0)
    assert data["made"].keys() == {NOISE, GENERATED, BOUNDARY}
    assert student["made_agreement"].keys() <= {NOISE, GENERATED, BOUNDARY}
    assert all(0 <= share <= 1 for share in student["made_agreement"].values())
    for key in ("top1", "top5", "ece", "nll", "agreement", "accuracy_drop", "class_accuracy", "boundary_agreement"):
        assert student[key] is None, key
    assert result["teacher"]["top1"] is None
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [row["validation_top1"] for row in rows] == [None, None]
    assert all(0 <= row["notes"]["image_entropy"] <= 1 for row in rows)
    assert not (trained / "checkpoints" / "best.ckpt").exists()


@pytest.mark.trains
def test_images_of_the_generator_are_kept_beside_the_run(trained):
    images = read_generated(trained / "generated.npy", (1, 8, 8))
    assert images.shape == (1024, 8, 8, 1)
    assert images.dtype == torch.uint8
    assert images.float().std() > 1


@pytest.mark.trains
def test_the_exported_file_is_proved_and_measured_on_made_images(trained, work, monkeypatch):
    monkeypatch.chdir(work)
    said = typed(["export", str(trained), "--format", "onnx", "--precision", "int8"])
    assert said.code == 0, said.err
    assert "images of the run's generator" in said.err
    measured = ran(["validate", str(trained), "--json", "--quiet"])
    artifacts = json.loads(measured.out)["artifacts"]
    assert [each["precision"] for each in artifacts] == ["fp32", "int8"]
    assert all(each["parity"]["samples"] > 256 for each in artifacts)
    assert artifacts[1]["calibration"]["samples"] == 512
    assert artifacts[0]["top1"] is artifacts[1]["top1"] is None
    assert (
        artifacts[0]["made_agreement"].keys()
        == json.loads((trained / "result.json").read_text())["data"]["made"].keys()
    )
    table = ran(["validate", str(trained), "--quiet"]).out
    assert "no test images; made ones: 512 noise, 512 generated" in table
    assert "agree, generated" in table
    assert not (trained / "predictions.npz").exists()
    ran(["report", str(trained), "--quiet"])
    assert "no accuracy is known" in (trained / "report" / "report.html").read_text()


@pytest.mark.trains
def test_the_students_file_names_the_data_of_its_teacher(trained):
    assert checkpoint.load_network(trained / "student" / "student.safetensors").data == "digits"


@pytest.mark.trains
@pytest.mark.parametrize("method", ["dfq-akd", "qimera"])
def test_methods_that_want_statistics_refuse_a_teacher_without_batchnorm(here, method):
    refused([*NONE, "--method", method, *SMALL, "--out", method], 4, "no BatchNorm", "statistics_weight=0")


@pytest.mark.trains
def test_the_other_trainer_of_the_generator_is_a_key(here):
    evolving = ["--set", "method.generator.train=ce-gan"]
    ran([*NONE, "--method", "dfad", *SMALL, *evolving, "--out", "evolved"])
    losses = json.loads((here / "evolved" / "metrics.jsonl").read_text().splitlines()[0])["losses"]
    assert losses.keys() == {"l1", *(f"generator_{name}" for name in ("l1", "kl", "log-l1", "offspring"))}


@pytest.mark.trains
def test_real_images_for_measuring_become_the_test_split_and_nothing_else(here):
    ran([*NONE, "--method", "dfad", *SMALL, "--check-data", "digits", "--out", "checked"])
    ran([*NONE, "--method", "dfad", *SMALL, "--out", "alone"])
    checked, alone = (json.loads((here / name / "result.json").read_text()) for name in ("checked", "alone"))
    assert checked["data"]["test"] == 1797
    assert checked["data"]["validation"] == 0
    assert checked["teacher"]["top1"] > 80
    assert 0 <= checked["student"]["top1"] <= 100
    assert checked["student"]["made_agreement"] == alone["student"]["made_agreement"]
    assert checked["student"]["sha256"] == alone["student"]["sha256"]  # they choose nothing


@pytest.mark.trains
def test_a_gate_on_accuracy_is_refused_before_training_where_no_image_has_a_label(here):
    gate = ["--set", "gates.min_top1=50", "--out", "gated"]
    refused([*NONE, "--method", "dfad", *SMALL, *gate], 2, "min_top1 is about real images", "")
    assert not (here / "gated").exists()
    ran([*NONE, "--method", "dfad", *SMALL, "--set", "gates.max_size_mb=50", "--out", "sized"])


@pytest.mark.trains
@pytest.mark.parametrize("method", ["dfad", "dfq-akd"])
def test_the_whole_path_without_data_can_be_tried_in_a_minute(here, tmp_path, method):
    recipe = tmp_path / "free.yaml"
    network = "{kind: upsample, noise: 8, width: 4}"
    recipe.write_text(
        f"data: {{name: none}}\nstudent: {{arch: lenet5-half}}\nteacher: {{checkpoint: {here / TEACHER}}}\n"
        f"method: {{kind: {method}, generator: {{network: {network}}}}}\n"
    )
    ran(["run", str(recipe), "--smoke", "--quiet"])


# Refusals.


@pytest.mark.trains
def test_what_cannot_do_without_data_is_refused_in_a_sentence(here):
    refused([*NONE, "--method", "kd", "--out", "a"], 2, "learns from images, and the data are none", "dfad")
    refused(["train", "--arch", "lenet5", "--data", "none"], 2, "learns from images")
    refused(
        [*NONE, "--method", "dfad", *SMALL, "--set", "data.augment=crop"],
        2,
        "data.augment: is for images, and there are none",
    )
    recipe = here / "free.yaml"
    recipe.write_text(
        f"data: {{name: none}}\nstudent: {{arch: lenet5-half}}\nmethod: {{kind: dfad}}\n"
        f"teacher: {{checkpoint: {here / TEACHER}}}\n"
    )
    refused(["compare", str(recipe), "--methods", "dfad,dfq-akd"], 2, "a comparison is one of accuracies", "data.check")
    named = [*NONE[:-1], "digits"]
    refused([*named, "--method", "dfad", *SMALL, "--check-data", "digits"], 2, "--check-data: is for none")
    refused([*NONE, "--method", "dfad", *SMALL, "--check-data", "nowhere"], 2, "no data set 'nowhere'")
    refused([*NONE, "--method", "dfad", *SMALL, "--check-data", "cifar10"], 4, "cifar10")


@pytest.mark.trains
def test_a_teacher_whose_normalisation_nobody_knows_is_refused_and_the_keys_are_named(here, tmp_path):
    weights = checkpoint.load_network(here / TEACHER).module.network.state_dict()
    torch.save(weights, tmp_path / "bare.pt")
    bare = ["distill", "--teacher", str(tmp_path / "bare.pt"), *NONE[3:], "--method", "dfad", *SMALL]
    refused([*bare, "--out", "bare"], 4, "does not say how its images are normalised", r"teacher\.mean")
    known = ["--set", "teacher.mean=[0.3]", "--set", "teacher.std=[0.4]", "--image-size", "8"]
    ran([*bare, *known, "--out", "told"])
    assert json.loads((here / "told" / "result.json").read_text())["teacher"]["input_shape"] == [1, 8, 8]


@pytest.mark.trains
def test_a_teacher_of_which_nothing_tells_the_shape_is_refused(here, tmp_path):
    module = checkpoint.load_network(here / TEACHER).module
    torch.export.save(
        torch.export.export(module, (torch.rand(2, 1, 8, 8),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)),
        tmp_path / "box.pt2",
    )
    box = ["distill", "--teacher", str(tmp_path / "box.pt2"), *NONE[3:], "--method", "dfad", *SMALL, "--out", "box"]
    refused(box, 2, "nothing tells the shape of the images", "--image-size")


def test_without_a_teacher_nothing_tells_what_the_images_are(here):
    refused(
        ["diff", f"{TEACHER}/student/student.safetensors", "runs/student-1", "--data", "none"],
        2,
        "comes from a teacher",
    )


# The images.


def test_a_data_set_without_images_has_the_teachers_classes_and_statistics():
    data = without_images(Data(name="none"), 3, None, (3, 4, 5), ((0.1,) * 3, (0.2,) * 3), device=CPU)
    assert data.classes == ("0", "1", "2")
    assert data.input_shape == (3, 4, 5)
    assert (data.mean, data.std) == ((0.1,) * 3, (0.2,) * 3)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [0, 0, 0]
    assert list(data.train.batches(4)) == []


def test_images_for_measuring_are_told_apart_by_the_fingerprint():
    facts = (10, None, (1, 8, 8), ((0.1,), (0.2,)))
    plain = without_images(Data(name="none"), *facts, device=CPU)
    checked = without_images(Data(name="none", check="digits"), *facts, device=CPU)
    assert plain.fingerprint != checked.fingerprint
    assert len(checked.test) == len(open_data(Data(name="digits"), device=CPU).test) * 0 + 1797
    with pytest.raises(CompressError, match="the teacher's"):
        without_images(Data(name="none", check="digits"), 10, None, (3, 8, 8), ((0.1,) * 3, (0.2,) * 3), device=CPU)


@pytest.fixture
def teacher(here):
    return checkpoint.load_network(here / TEACHER)


@pytest.mark.trains
def test_made_images_agree_with_the_teacher_itself_and_lie_past_its_boundary(teacher):
    runner = TorchRunner(teacher.module, input_shape=(1, 8, 8), classes=10, device="cpu")
    generated = torch.randint(0, 256, (40, 8, 8, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made = made_images(teacher, generated, runner, seed=0, device=CPU)
    assert made.sizes[GENERATED] == 40
    assert 0 < made.sizes[BOUNDARY] <= 40
    assert set(made.agreements(runner).values()) == {1.0}
    one, other = np.sort(made.taught[BOUNDARY], axis=1)[:, -2:].T
    assert np.median(other - one) < np.median(np.diff(np.sort(made.taught[GENERATED], axis=1)[:, -2:]))
    assert made_images(teacher, None, runner, seed=0, device=CPU).sizes.keys() == {NOISE, BOUNDARY}


@pytest.mark.trains
def test_what_stands_in_for_images_is_labelled_by_the_teacher(teacher):
    none = without_images(Data(name="none"), 10, None, (1, 8, 8), ((0.1,), (0.2,)), device=CPU)
    images = torch.randint(0, 256, (30, 8, 8, 1), dtype=torch.uint8)
    data = stand_in(none, teacher, images, CPU)
    (batch,) = data.test.batches(100)
    assert torch.equal(batch.labels, teacher.module(batch.images).argmax(dim=1))
    assert len(data.validation) == 0


def test_kept_images_are_read_back_and_what_is_damaged_is_refused(tmp_path):
    path = tmp_path / "generated.npy"
    images = torch.rand(5, 3, 4, 6)
    keep_generated(images, path)
    read = read_generated(path, (3, 4, 6))
    assert (read.permute(0, 3, 1, 2) / 255 - images).abs().max() <= 0.5 / 255 + 1e-6
    with pytest.raises(CompressError, match="not bytes of images"):
        read_generated(path, (1, 4, 6))
    path.write_bytes(b"nothing")
    with pytest.raises(CompressError, match="cannot be read"):
        read_generated(path, (3, 4, 6))
    assert read_generated(tmp_path / "none.npy", (3, 4, 6)) is None
    assert kept_count((1, 8, 8)) == 1024
    assert kept_count((3, 224, 224)) == 2**25 // (3 * 224 * 224)
