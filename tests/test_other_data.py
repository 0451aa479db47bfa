"""A network measured on data that it was not trained on: said so, and not taken for classes in another order."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shell import refused

from exporters import onnx

GUESSING = "hardly more than guessing"


def stripes(folder, names, mode="L"):
    """A folder of stripes, noisy, that run in another direction in each class."""
    rows, columns = np.mgrid[0:8, 0:8]
    draw = np.random.default_rng(0)
    for number, name in enumerate(names):
        angle = np.pi * number / len(names)
        for split, count in (("train", 40), ("test", 20)):
            place = folder / split / name
            place.mkdir(parents=True)
            for image in range(count):
                waves = np.sin(1.5 * (rows * np.cos(angle) + columns * np.sin(angle)) + 6.3 * draw.random())
                pixels = np.clip(128 + 90 * waves + 30 * draw.standard_normal((8, 8)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).convert(mode).save(place / f"{image}.png")
    return f"folder:{folder}"


@pytest.mark.starts
def test_other_images_with_as_many_classes_are_called_other_data(here, tmp_path):
    data = stripes(tmp_path / "stripes", [f"direction {number}" for number in range(10)])
    (graph,) = Path("runs/student-1/export").glob("*.onnx")

    refused(
        ["distill", "--teacher", "runs/teacher-1", "--student", "lenet5-half", "--data", data, "--quiet"],
        4,
        f"^error: the teacher is right on .* at best, {GUESSING}",
        "hint: its file says that it was trained on digits: give the data it was trained on",
    )
    refused(
        ["validate", str(graph), "--data", data, "--quiet"],
        4,
        f"^error: student.fp32.onnx is right on .* at best, {GUESSING}",
        "hint: it was probably trained on other data",
    )


@pytest.mark.starts
def test_grey_and_colour_are_told_apart_before_anything_is_tried(here, tiny, tmp_path):
    data = stripes(tmp_path / "stripes", [str(number) for number in range(10)], "RGB")
    onnx.export(tiny(classes=10), tmp_path / "colour.onnx", input_shape=(3, 8, 8), opset=20)
    distil = ["distill", "--teacher", "runs/teacher-1", "--student", "lenet5-half", "--quiet"]

    refused(
        [*distil, "--data", data, "--set", "data.channels=3"],
        4,
        "the teacher takes images of 1 channels, but those of stripes have 3",
        "give the data that it was trained on",
    )
    refused(
        ["validate", str(tmp_path / "colour.onnx"), "--data", "digits", "--quiet"],
        4,
        "colour.onnx takes images of 3 channels, but those of digits have 1",
        "give the data that it was trained on",
    )
