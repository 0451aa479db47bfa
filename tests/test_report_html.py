"""The page: that all parts are on it and nothing else, that it says what is missing, and how it stands in a browser."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from chromium import CHROMIUM, browser
from layers import starts
from report_contents import HOSTILE, contents, gate, measured
from shell import ran, refused, typed

from compressor import pipeline
from compressor.measure.predictions import FilePredictions, StoredPredictions
from compressor.progress import Tell
from compressor.report import figures, html, sections
from compressor.report.contents import Contents, Gallery, Missing
from compressor.runs import record

pytestmark = pytest.mark.heavy  # every test draws whole pages

FIGURES = {"curve0", "curve1", "curve2", "front1", "front8", "spread1", "spread8", "plane0", "plane1"}


class Reader(HTMLParser):
    """What a browser would make of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    handle_startendtag = handle_starttag

    def handle_data(self, data):
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


# The page


def test_every_part_is_on_the_page():
    page = Reader(html.page(contents()))

    parts = {attributes.get("id") for attributes in page.of("section")}
    assert {"files", "training", "speed", "classes", "boundary", "disagreements", "origin"} <= parts
    assert len(page.of("svg")) == len(FIGURES)
    assert len(page.of("img")) == 4
    assert "compress run runs/try/recipe.resolved.yaml" in page.text
    assert "alike in length by 0.750 (MagSim)" in " ".join(page.text.split())


def test_the_page_loads_nothing_runs_nothing_and_can_be_read_aloud():
    page = Reader(html.page(contents()))

    addresses = [
        value or "" for _, each in page.elements for key, value in each.items() if key in ("src", "href", "xlink:href")
    ]
    assert addresses
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in addresses)
    assert page.of("script") == []
    assert page.of("link") == []
    assert all(each.get("alt") for each in page.of("img"))
    assert all(each.get("aria-label") and each.get("role") == "img" for each in page.of("svg"))
    ids = [each["id"] for _, each in page.elements if "id" in each]
    assert len(ids) == len(set(ids))
    used = re.findall(r'(?:url\(|href=")#([\w-]+)', html.page(contents()))
    assert set(used) <= set(ids)


def test_nothing_from_outside_becomes_markup():
    names = HOSTILE
    run = measured(names, name=HOSTILE[0], gates=(gate(False, detail=HOSTILE[2]),))
    noted = run.artifacts[0].model_copy(update={"note": HOSTILE[0], "path": HOSTILE[2]})
    run = run.model_copy(
        update={"artifacts": (noted,), "versions": {HOSTILE[0]: HOSTILE[2]}, "hardware": {"cpu": HOSTILE[0]}}
    )
    given = contents(names, name=HOSTILE[0], folder=Path(HOSTILE[0]), recipe=HOSTILE[2], result=run)
    given = Contents(**{**vars(given), "missing": (Missing(HOSTILE[0], HOSTILE[2]),)})

    for text in (html.page(given), html.comparison([given, given])):
        page = Reader(text)
        assert page.of("script") == []
        assert all((each.get("src") or "").startswith("data:") and "onerror" not in each for each in page.of("img"))
        assert HOSTILE[0] in page.text
        assert HOSTILE[2] in page.text
    whole = Reader(html.page(given))
    for name in names:
        assert name in whole.text


def test_the_same_run_gives_the_same_text():
    once, again = (html.page(contents()) for _ in range(2))

    assert once == again


@pytest.mark.parametrize("part", ["result", "benchmark", "answers"])
def test_a_page_is_written_without_any_one_part(part):
    seen = {"gallery": Gallery()} if part == "result" else {}  # nobody looks at a run that is not trained
    page = Reader(html.page(contents(**{part: None, "missing": (Missing("something", "compress try"),)}, **seen)))

    assert "something: compress try" in page.text


def test_a_page_is_written_without_epochs_images_or_anything():
    bare = Contents("try", Path("runs/try"), "", {}, [])

    assert "Not finished" in Reader(html.page(bare)).text
    assert (
        Reader(html.page(contents(epochs=[], gallery=Gallery(reason="the teacher is gone")))).text.count(
            "the teacher is gone"
        )
        == 1
    )


def test_a_large_set_of_classes_still_makes_a_small_page():
    names = tuple(f"class number {number}" for number in range(1000))

    assert len(html.page(contents(names))) < 3e6


# Several runs


def test_a_comparison_has_a_column_a_student_and_says_what_does_not_compare():
    other = measured(("a", "b"))
    data = other.data.model_copy(update={"fingerprint": "other"})
    runs = [contents(), contents(name="again", result=other.model_copy(update={"data": data}))]

    page = Reader(html.comparison(runs))

    assert "different test images" in page.text
    assert "different machines" not in page.text
    heads = re.findall(r'<th scope="col">(\w+)<small>', html.comparison(runs))
    assert heads == ["try", "again"]
    assert len(page.of("svg")) == 5
    assert "different test images" not in Reader(html.comparison([contents(), contents(name="again")])).text


# The command


@pytest.fixture(scope="module")
def finished(work, tmp_path_factory):
    """A copy of the finished run, with its teacher, examined and timed."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(work / "runs", folder / "runs", symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ran(["validate", "runs/student-1"])
        ran(["bench", "runs/student-1"])
        yield folder


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    """The finished run, to be spoiled; looked at coarsely, to be quick."""
    monkeypatch.setattr("compressor.measure.gallery.affordable", lambda *_: (64, 17))
    shutil.copytree(finished / "runs", tmp_path / "runs", symlinks=True)
    monkeypatch.chdir(tmp_path)
    return Path("runs/student-1")


def reported(run) -> tuple[str, str]:
    """The text of the page and what the command said besides."""
    done = ran(["report", str(run)])
    return Reader((run / "report" / "report.html").read_text(encoding="utf-8")).text, done.err


def test_validate_keeps_what_every_file_said(finished):
    found = StoredPredictions.read(finished / "runs/student-1/predictions.npz")
    kept = record.read(finished / "runs/student-1")

    assert list(found.files) == ["teacher", "student", "export/student.fp32.onnx"]
    assert found.fingerprint == kept.data.fingerprint
    top1 = 100 * np.mean(found.files["student"].classes == found.labels)
    assert top1 == pytest.approx(kept.student.top1)
    agreement = np.mean(found.files["student"].classes == found.files["teacher"].classes)
    assert agreement == pytest.approx(kept.student.agreement)
    assert found.files["student"].sha256 == kept.student.sha256


def test_the_report_of_a_finished_run_lacks_nothing(run):
    text, said = reported(run)

    assert said == ""
    assert "Not in this report" not in text
    for words in ("All measures", "Loss: bss", "Batch 32", "Lost most", "Decision regions", "disagree", "Hardware"):
        assert words in text


def test_the_command_prints_where_the_report_is_and_writes_it_again(run):
    done = ran(["report", str(run)])
    again = ran(["report", str(run), "--json"])

    assert done.out == "runs/student-1/report/report.html\n"
    assert json.loads(again.out) == {"report": "runs/student-1/report/report.html"}


def test_without_a_run_it_is_the_latest(run):
    latest = Path("runs/latest").resolve().name

    assert ran(["report"]).out == f"runs/{latest}/report/report.html\n"


def test_another_file_is_not_replaced_unless_asked(run, tmp_path):
    (tmp_path / "mine.html").write_text("mine")

    refused(["report", str(run), "--out", "mine.html"], 2, "mine.html exists already", "--overwrite")
    assert (tmp_path / "mine.html").read_text() == "mine"
    ran(["report", str(run), "--out", "mine.html", "--overwrite"])
    assert "<!doctype html>" in (tmp_path / "mine.html").read_text(encoding="utf-8")


def test_several_runs_are_compared_in_one_file_here(run):
    done = ran(["report", str(run), "runs/teacher-1"])

    assert done.out == "report.html\n"
    text = Reader(Path("report.html").read_text(encoding="utf-8")).text
    assert "2 runs compared" in text
    assert "teacher-1: latencies: compress bench runs/teacher-1" in text
    refused(["report", str(run), "runs/teacher-1"], 2, "report.html exists already")


def test_a_folder_that_is_no_run_is_refused(run, tmp_path):
    refused(["report", str(tmp_path)], 2, "is not the folder of a run")


@pytest.mark.parametrize(
    ("gone", "what", "command"),
    [
        ("result.json", "not finished", "compress distill --resume runs/student-1"),
        ("bench.json", "latencies", "compress bench runs/student-1"),
        ("predictions.npz", "disagreements", "compress validate runs/student-1"),
        ("metrics.jsonl", "training curves", ""),
        ("export/student.fp32.onnx", "not on disk any more", "compress export runs/student-1"),
        ("student/student.safetensors", "student.safetensors", ""),
        ("env.json", "", ""),
    ],
)
def test_a_run_that_lacks_a_part_is_shown_as_far_as_it_came(run, gone, what, command):
    (run / gone).unlink()

    text, said = reported(run)

    assert what in text
    assert command in text
    assert command in said


@pytest.mark.parametrize("name", ["result.json", "bench.json", "predictions.npz", "metrics.jsonl", "env.json"])
def test_a_damaged_part_is_named_and_left_out(run, name):
    (run / name).write_text('{"x": 1}\n[]\n')

    text, _ = reported(run)

    assert (name in text) is (name != "env.json")


def test_a_recipe_that_cannot_be_read_costs_only_the_images(run):
    (run / "recipe.resolved.yaml").write_text("recipe: 2\n")

    text, said = reported(run)

    assert "No boundary samples and no decision regions" in text
    assert "boundary samples and decision regions" in said
    assert "Loss: bss" in text


def test_a_teacher_that_has_moved_costs_the_boundary_and_not_the_disagreements(run):
    recipe = (run / "recipe.resolved.yaml").read_text(encoding="utf-8")
    moved = re.sub("checkpoint: .*", "checkpoint: /gone/teacher-1", recipe)
    (run / "recipe.resolved.yaml").write_text(moved, encoding="utf-8")

    text, _ = reported(run)
    page = Reader((run / "report" / "report.html").read_text(encoding="utf-8"))

    assert "No boundary samples and no decision regions" in text
    assert "teacher-1" in text
    count = sections.disagreement_count(pipeline_story(run))
    assert len(page.of("img")) == min(count.images, 12)


def pipeline_story(run) -> Contents:
    return Contents("s", run, "", {}, [], record.read(run), None, StoredPredictions.read(run / "predictions.npz"))


def test_data_that_have_changed_cost_the_disagreements_pictures(run):
    found = StoredPredictions.read(run / "predictions.npz")
    fewer = {
        name: FilePredictions(
            sha256=each.sha256,
            labels=each.labels[:-1],
            classes=each.classes[:-1],
            probabilities=each.probabilities[:-1],
        )
        for name, each in found.files.items()
    }
    StoredPredictions(fingerprint="f", files=fewer).write(run / "predictions.npz")

    text, _ = reported(run)

    assert "counted and not shown: the test images are not those" in text
    assert "Decision regions" in text


def test_a_file_that_was_made_again_is_to_be_examined_again(run):
    ran(["export", str(run), "--format", "onnx", "--precision", "fp16"])

    text, _ = reported(run)

    assert "latencies of export/student.fp16.onnx: compress bench" in text
    assert "accuracies of export/student.fp16.onnx as it is now: compress validate" in text


def test_a_run_that_was_only_trained_is_reported(run):
    text, _ = reported(Path("runs/teacher-1"))

    assert "% right" in text
    assert "exported files: compress export runs/teacher-1 --format onnx" in text


def test_the_stage_writes_into_the_folder_of_the_run(run):
    from compressor.pipeline.finished_run import open_run
    from compressor.pipeline.report import report_stage
    from compressor.runs.folder import Run

    report_stage(open_run(Run(run), Tell(quiet=True)), Tell(quiet=True))

    place = run / "report" / "report.html"
    assert "Decision regions" in place.read_text(encoding="utf-8")


def test_a_new_run_in_the_same_folder_forgets_the_old_report(run):
    from compressor.runs.folder import new_run

    reported(run)
    with new_run("x", out=run, overwrite=True):
        pass

    assert not (run / "report" / "report.html").exists()
    assert not (run / "predictions.npz").exists()


def test_drawing_says_nothing_and_warns_of_nothing(run, capfd):
    names = ("寿司", "पिज़्ज़ा", "🍕", "x" * 300, "")
    html.page(contents(names))
    pipeline.report([run], Tell(quiet=True))

    assert capfd.readouterr() == ("", "")


def test_a_full_disk_is_one_sentence(run, monkeypatch):
    import errno

    def full(*_):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("pathlib.Path.replace", full)
    done = typed(["report", str(run)])
    assert done.code == 4
    assert "the disk is full" in done.err


# A real browser


@pytest.fixture(scope="module")
@starts
def chromium(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no Chromium here: the page is not opened in a real browser")
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(finished, tmp_path_factory):
    """A real report, one with hostile and long names, one that is half finished, and a comparison."""
    folder = tmp_path_factory.mktemp("pages")
    paths = {name: folder / f"{name}.html" for name in ("real", "hostile", "half", "several", "many")}
    ran(["report", str(finished / "runs/student-1"), "--out", str(paths["real"])])
    ran(["report", *2 * [str(finished / "runs/student-1")], "--out", str(paths["several"])])
    long = (*HOSTILE, "a-very-long-class-name-without-any-space-in-it-" * 3)
    hostile = contents(long, name=HOSTILE[2] * 5, recipe="x" * 500, folder=Path("y" * 400))
    paths["hostile"].write_text(html.page(hostile), encoding="utf-8")
    paths["many"].write_text(html.page(contents(tuple(f"class {number}" for number in range(200)))), encoding="utf-8")
    half = Contents("half", Path("runs/half"), "recipe: 1", {}, [], missing=(Missing("all", "compress " + "z" * 300),))
    paths["half"].write_text(html.page(half), encoding="utf-8")
    return paths


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("name", ["real", "hostile", "half", "several", "many"])
def test_a_page_opens_without_complaint_and_fits_its_window(chromium, pages, name, width, dark):
    chromium.open(pages[name], width=width, dark=dark)

    assert chromium.messages == []
    assert [url for url in chromium.requested if not url.startswith("data:")] == [pages[name].as_uri()]
    assert chromium.evaluate("document.documentElement.scrollWidth") <= width
    assert chromium.evaluate("document.compatMode") == "CSS1Compat"
    assert chromium.evaluate("document.scripts.length") == 0
    assert chromium.evaluate("window.matchMedia('(prefers-color-scheme: dark)').matches") is dark
    parts = "document.querySelectorAll('figure > svg, img, table')"
    assert chromium.evaluate(f"[...{parts}].every(each => each.clientWidth > 0 && each.clientHeight > 0)")
    assert chromium.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")


def test_the_figures_are_drawn(chromium, pages):
    chromium.open(pages["real"], width=1400)

    sizes = "[...document.querySelectorAll('figure > svg')].map(e => [e.clientWidth, e.clientHeight])"
    found = chromium.evaluate(sizes)
    assert len(found) >= 9
    assert min(map(min, found)) > 60
    assert chromium.evaluate("document.querySelectorAll('figure > svg text').length") > 40


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_words_and_figures_stand_out_from_what_is_behind_them(chromium, pages, dark):
    chromium.open(pages["real"], width=1400, dark=dark)

    background = _luminance(chromium.evaluate("getComputedStyle(document.querySelector('.card')).backgroundColor"))
    assert (background < 0.1) is dark
    words = ["p", ".lede", ".note", "small", "svg text", ".tiles .value", ".verdict h2", "summary"]
    for selector in words:
        key = "fill" if selector == "svg text" else "color"
        colour = chromium.evaluate(f"getComputedStyle(document.querySelector('main {selector}')).{key}")
        assert _contrast(_luminance(colour), background) >= 4.5, selector
    variable = "getComputedStyle(document.documentElement).getPropertyValue('--s{}')"
    for number in range(figures.SERIES):
        colour = chromium.evaluate(variable.format(number))
        assert _contrast(_luminance(colour), background) >= 3, number


def _luminance(colour: str) -> float:
    """The relative luminance of `rgb(...)` or `#rrggbb`, as WCAG 2 defines it."""
    if colour.startswith("#"):
        parts = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    else:
        parts = [float(part) for part in re.findall(r"[\d.]+", colour)[:3]]
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in np.array(parts) / 255
    ]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def _contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)
