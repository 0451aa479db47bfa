"""Pictures and figures: what is drawn, and that it takes its colours from the page."""

import base64
import io
import logging
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from compressor.report import figures, pictures
from compressor.report.drawing import drawing

# Pictures


def test_a_picture_is_a_png_of_the_image():
    image = np.array([[[0.0, 1.0]], [[0.5, 0.0]], [[1.0, 0.25]]], np.float32)  # [3, 1, 2]

    found = pictures.picture(image)

    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(found.address.partition(",")[2]))))
    assert pixels.tolist() == [[[0, 128, 255], [255, 0, 64]]]
    assert (found.width, found.height, found.pixelated) == (2, 1, True)
    large = pictures.picture(np.zeros((1, 224, 112), np.float32))
    assert (large.width, large.height, large.pixelated) == (48, 96, False)


def test_a_difference_is_amplified_to_the_ends_of_the_range():
    base = np.zeros((1, 1, 3), np.float32)
    change, factor = pictures.difference(base, np.array([[[0.0, 0.05, -0.1]]], np.float32))

    assert factor == pytest.approx(5)
    assert change == pytest.approx(np.array([[[0.5, 0.75, 0.0]]]))
    assert pictures.difference(base, base)[1] == 1


# Figures


def test_a_figure_takes_its_colours_from_the_page():
    svg = figures.curves([figures.Line(0, [1, 2], [3.0, 4.0])], unit="%", description="d", name="f")

    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) == set()
    assert {"var(--s0)", "var(--muted)", "var(--line)"} <= set(re.findall(r"var\(--\w+\)", svg))
    assert "DejaVu" not in svg
    assert "<style" not in svg


def test_two_figures_of_a_page_share_no_ids():
    svgs = [figures.curves([figures.Line(0, [1, 2], [3.0, 4.0])], unit="", description="d", name=name) for name in "fg"]

    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in svgs]
    assert ids[0]
    assert ids[0] & ids[1] == set()
    assert all(set(re.findall(r"url\(#([^)]+)\)", svg)) <= own for svg, own in zip(svgs, ids, strict=True))


@pytest.mark.parametrize("values", [[0.001], [5.0, 5.0], [0.9, 1.1], [0.01, 900.0], [3e-4, 2e4]])
def test_a_latency_axis_has_round_places_for_any_range(values):
    points = [figures.Point(number, value, 90.0, None, True) for number, value in enumerate(values)]

    texts = re.findall(r">([\d.e+-]+)</text>", figures.frontier(points, description="d", name="f"))

    ticks = [float(text) for text in texts if min(values) / 3 <= float(text) <= max(values) * 3 and float(text) != 90]
    assert ticks


def test_the_strongest_class_colours_a_region():
    sure = np.zeros((3, 3, 2), np.float32)
    sure[..., 1] = 1
    svg = figures.regions(
        sure,
        *[np.linspace(0, 1, 3, dtype=np.float32)] * 2,
        colours=["#ff0000", "#00ff00"],
        points=[(0.5, 0.5)],
        description="d",
        name="f",
    )
    (data,) = re.findall(r'"data:image/png;base64,([^"]+)"', svg)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
    assert set(map(tuple, pixels.reshape(-1, 3).tolist())) == {(0, 255, 0)}


def test_a_class_that_looks_like_a_formula_stays_as_it_is():
    svg = figures.curves([figures.Line(0, [1], [1.0])], unit="$x_1$ <b>", description="d", name="f")

    assert "$x_1$ &lt;b&gt;" in svg


# Drawing


def test_drawing_is_silent_and_leaves_matplotlib_as_it_was(caplog):
    import matplotlib as mpl

    before = mpl.rcParams["font.size"]
    with drawing(2, 1, {"font.size": before + 1}) as figure:
        assert mpl.rcParams["font.size"] == before + 1
        figure.text(0, 0, "寿司")
        figure.savefig(io.BytesIO())  # its font lacks these letters, which would be a warning
        logging.getLogger("matplotlib.font_manager").error("building the font cache")

    assert caplog.records == []
    assert mpl.rcParams["font.size"] == before
    logging.getLogger("matplotlib").warning("heard again")
    assert len(caplog.records) == 1


@pytest.mark.starts
def test_fonts_are_looked_for_only_while_drawing():
    """Where there is no cache of them, Matplotlib builds one and says so."""
    code = "import sys, compressor.report.figures; sys.exit('matplotlib.font_manager' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
