"""Images whose height and width differ, from their folder to the exported file."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shell import ran

from compressor.checkpoint import load_network
from exporters import onnx

pytestmark = [pytest.mark.trains, pytest.mark.starts]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for name, level in (("day", 170), ("night", 60)):
        for number in range(40):
            height, width = draw.integers(12, 20), draw.integers(18, 30)
            pixels = np.clip(draw.normal(level, 20, (height, width, 3)), 0, 255).astype(np.uint8)
            path = Path("photos", name, f"{number}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


def test_a_teacher_of_oblong_images_says_the_size_to_its_student_and_to_the_file(photos):
    quick = ["--data", "folder:photos", "--epochs", "1", "--device", "cpu", "--quiet"]
    assert ran(["train", "--arch", "lenet5", "--image-size", "10x16", "--out", "t", *quick, "--epochs", "6"]).code == 0
    assert "image_size: [10, 16]" in Path("t/recipe.resolved.yaml").read_text()
    assert load_network(Path("t/student/student.safetensors")).input_shape == (3, 10, 16)

    done = ran(["distill", "--teacher", "t", "--student", "lenet5-half", "--out", "s", *quick[:-1]])
    assert "images of 10x16, as the teacher's file says" in done.err
    assert ran(["export", "s", "--format", "onnx", "--quiet"]).code == 0
    assert onnx.stated_shape(Path("s/export/student.fp32.onnx")) == (3, 10, 16)
    assert ran(["validate", "s/export/student.fp32.onnx", "--data", "folder:photos", "--quiet"]).code == 0
