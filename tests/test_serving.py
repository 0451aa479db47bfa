"""docs/serving.md: its ten lines are run; what a file says of its images; Triton's configuration."""

import json
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from shell import ran, refused
from torch import nn

from compressor.artifacts.building import _preparation
from exporters import exporter, onnx
from exporters.pytorch import TorchRunner

pytestmark = pytest.mark.heavy  # every network is traced and quantised


PAGE = Path(__file__).resolve().parent.parent / "docs" / "serving.md"
(EXAMPLE,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def student(tmp_path, monkeypatch):
    """`student.onnx`, which tells a bright centre (`day`) from a dark one (`night`)."""
    monkeypatch.chdir(tmp_path)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).eval()
    with torch.no_grad():
        network[2].weight.copy_(torch.tensor([[-1.0, -1, -1], [1, 1, 1]]))
        network[2].bias.copy_(torch.tensor([1.5, -1.5]))
    onnx.export(network, Path("bare.onnx"), input_shape=(3, 16, 16))
    known = _preparation(TorchRunner(network, input_shape=(3, 16, 16), classes=2))
    classes = {"compress.classes": json.dumps(["night", "day"])}
    onnx.convert(Path("bare.onnx"), Path("student.onnx"), metadata={**known, **classes})
    return known


@pytest.mark.parametrize(("level", "name"), [(250, "day"), (5, "night")])
def test_the_lines_of_the_page_classify_a_photo(student, capsys, level, name):
    pixels = np.full((40, 90, 3), 255 - level, np.uint8)
    pixels[:, 25:65] = level  # only the centre counts
    Image.fromarray(pixels).save("photo.jpg")
    exec(compile(EXAMPLE, PAGE.name, "exec"), {"__name__": "page"})
    assert capsys.readouterr().out.strip() == name


def test_a_machine_can_read_how_an_image_becomes_the_input(student):
    assert student["compress.normalisation"] == "inside"
    assert json.loads(student["compress.resize"])["short_side"] == 16


def test_what_is_no_square_is_told_by_what_it_covers():
    runner = TorchRunner(nn.Flatten(), input_shape=(1, 2, 3), classes=6)
    resize = json.loads(_preparation(runner)["compress.resize"])
    assert resize == {"cover": [2, 3], "filter": "bilinear, antialiased", "crop": "centre"}


def test_triton_gets_the_ends_of_the_file(student):
    text = ran(["inspect", "student.onnx", "--triton"]).out
    assert 'name: "student"' in text
    assert 'input [ { name: "input" data_type: TYPE_FP32 dims: [ 3, 16, 16 ] } ]' in text
    assert 'output [ { name: "logits" data_type: TYPE_FP32 dims: [ 2 ] } ]' in text
    assert "dynamic_batching" in text
    refused(["inspect", str(PAGE), "--triton"], 4, "is no ONNX file")


@pytest.mark.skipif(
    find_spec("openvino") is None, reason="OpenVINO is not installed: pip install 'compressor[openvino]'"
)
def test_inspect_knows_an_openvino_file(student):
    from exporters import Engine

    built = exporter("openvino").build(Path("student.onnx"), Path(), "student", precision="fp32", engine=Engine())
    facts = json.loads(ran(["inspect", str(built.path), "--json"]).out)
    assert (facts["format"], facts["precision"], facts["input shape"]) == ("OpenVINO IR", "fp32", [3, 16, 16])
    assert facts["metadata"]["compress.normalisation"] == "inside"


def test_inspect_tells_a_plan_by_its_sidecar_and_does_not_load_it(student, tmp_path):
    Path("student.plan").write_bytes(b"not a plan that anything could load")
    refused(["inspect", "student.plan"], 4, "has no sidecar student.plan.json beside it")
