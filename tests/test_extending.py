"""A package outside ours that adds one of each: a method, a loss, a student, a data set and an exporter."""

import json
from pathlib import Path

import pytest
import torch
from example_plugin.loss import Huber
from example_plugin.network import shallow
from shell import ran, refused

from compressor.methods import Setting
from compressor.methods.losses import LogitLoss

PAGE = Path(__file__).resolve().parent.parent / "docs" / "extending.md"
QUICK = ["--epochs", "2", "--set", "train.lr=0.05", "--batch-size", "32", "--quiet"]
DATA = ["--data", "example_plugin.dataset:stripes"]
STUDENT = ["--student", "example_plugin.network:shallow"]
CODE = ["example_plugin.dataset:stripes", "example_plugin.network:shallow", "example_plugin.method:Fading"]


@pytest.mark.trains
def test_a_package_of_ones_own_is_used_from_the_teacher_to_the_exported_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran(["train", "--arch", "lenet5", *DATA, "--out", "teacher", "--epochs", "6", *QUICK[2:]])

    method = ["--method", "example_plugin.method:Fading", "--set", "method.start=0.5"]
    ran(["distill", "--teacher", "teacher", *DATA, *STUDENT, *method, "--out", "run", *QUICK])
    allowed = [word for name in CODE for word in ("--allow", name)]
    ran(["export", "run", "--format", "example_plugin.exporter:ZIPPED", *allowed, "--quiet"])
    # The exporter is named by the record now, and by the command that measures.
    measured = ran(["validate", "run", *allowed, "--allow", "example_plugin.exporter:ZIPPED", "--quiet", "--json"])

    result = json.loads(measured.out)
    losses = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[0])["losses"]
    assert set(losses) == {"ce", "taught"}
    assert result["training"]["method"] == "example_plugin.method:Fading"
    assert result["student"]["arch"] == "example_plugin.network:shallow"
    assert result["artifacts"][0]["path"].endswith(".zonnx")
    assert result["artifacts"][0]["top1"] == result["student"]["top1"]


@pytest.mark.trains
def test_a_loss_of_ones_own_is_a_term_of_kd_and_of_bss(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran(["train", "--arch", "lenet5-half", "--data", "digits", "--out", "teacher", "--epochs", "6", *QUICK[2:]])
    soft = ["--set", "method.soft={kind: example_plugin.loss:Huber, delta: 2.0}"]
    student = ["--teacher", "teacher", "--student", "lenet5-half", *soft, "--out"]

    for method in ("kd", "bss"):
        ran(["distill", "--method", method, *student, method, *QUICK])
        assert "delta: 2.0" in (tmp_path / method / "recipe.resolved.yaml").read_text()

    wrong = ["--set", "method.soft={kind: example_plugin.loss:Huber, dleta: 2.0}"]
    refused(["distill", "--method", "kd", *student[:4], *wrong, "--out", "wrong", *QUICK], 2, "dleta")


def test_the_loss_is_its_closed_form():
    setting = Setting(
        student=torch.nn.Identity(),
        teachers=(),
        classes=2,
        input_shape=(1, 1, 1),
        samples=2,
        std=torch.ones(1),
        device=torch.device("cpu"),
    )
    loss: LogitLoss = Huber(kind="example_plugin.loss:Huber", delta=1.0)
    term = loss.build(setting)

    found = term(torch.tensor([[0.0, 0.5], [3.0, 0.0]]), torch.zeros(2, 2), None)

    # Half the square below delta, delta (distance - delta / 2) above it; the mean of two classes.
    torch.testing.assert_close(found, torch.tensor([0.125 / 2, 2.5 / 2]))


def test_the_student_gives_logits_for_any_shape():
    assert shallow(3, (1, 15, 16))(torch.rand(2, 1, 15, 16)).shape == (2, 3)


def test_the_page_has_a_section_for_each_and_names_the_examples():
    page = PAGE.read_text(encoding="utf-8")

    for heading in ("A method", "A loss", "A student", "A data set", "An exporter"):
        assert f"\n## {heading}\n" in page
    for name in ("method", "loss", "network", "dataset", "exporter"):
        assert f"tests/example_plugin/{name}.py" in page
