"""The report: what it says of a record, that it says what is missing, and how it stands in a real browser."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from chromium import CHROMIUM, browser
from hypothesis import given
from hypothesis import strategies as st
from shell import ran, refused, typed
from test_report import result

from compressor import pipeline
from compressor.answers import Answer, Answers
from compressor.bench import Benchmark, Latency
from compressor.gallery import BoundaryExample, Disagreement, Slice
from compressor.progress import Tell
from compressor.report import Gate, figures, html, pictures, record, sections
from compressor.report.story import Looked, Missing, Story

HOSTILE = ("<script>alert(1)</script>", "$x_1$", '"><img src=x onerror=alert(1)>', "a & b", "{{ 7 * 7 }}")
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


def timing(p50: float) -> record.Timing:
    return record.Timing(
        **{"p50": p50, "p90": 1.2 * p50, "p95": 1.3 * p50, "p99": 2 * p50, "mean": p50, "images_per_s": 1000 / p50},
        median_ci=(0.9 * p50, 1.1 * p50),
        iterations=9,
        threads=None,
        transfers=False,
        other_load=0.0,
    )


def latency(batch: int, p50: float, **changes) -> Latency:
    values = {
        "batch": batch,
        "samples_ms": tuple(p50 * factor for factor in (0.8, 0.9, 1.0, 1.2, 2.0)),
        "percentiles": {},
        "mean_ms": p50,
        "median_interval": None,
        "throughput": 1.0,
        "warmup_iterations": 1,
        "threads": None,
        "transfers": False,
        "other_load": 0.0,
        "clock_mhz": None,
    }
    return Latency(format="onnx", provider="cpu", precision="fp32", **(values | changes))


def answer(classes, labels, sha256="0" * 64) -> Answer:
    count = len(labels)
    return Answer(
        sha256=sha256,
        labels=np.array(labels, np.int32),
        classes=np.array(classes, np.int32),
        probabilities=np.full(count, 0.5, np.float32),
    )


def measured(names, **changes):
    """The record of a run that was examined and timed."""
    accuracy = dict.fromkeys(names, 90.0)
    first = {
        "top1": 98.0,
        "top1_ci": (96.0, 99.0),
        "samples": 359,
        "class_accuracy": accuracy,
        "latency_ms": {"1": timing(8.0), "8": timing(20.0)},
    }
    after = first | {
        "top1": 97.0,
        "agreement": 0.95,
        "boundary_agreement": 0.6,
        "accuracy_drop": 1.0,
        "accuracy_drop_ci": (0.25, 1.75),
        "worst_class_drop": 3.0,
        "class_change": {name: float(number) - 3 for number, name in enumerate(names)},
        "latency_ms": {"1": timing(4.0), "8": timing(10.0)},
    }
    plain = result()
    last = after | {"latency_ms": {"1": timing(1.0), "8": timing(5.0)}}
    return plain.model_copy(
        update={
            "data": plain.data.model_copy(update={"classes": len(names)}),
            "teacher": plain.teacher.model_copy(update=first),
            "student": plain.student.model_copy(update=after),
            "artifacts": (plain.artifacts[0].model_copy(update=last),),
        }
        | changes
    )


def story(names=("zero", "one", "two", "three", "four"), **changes) -> Story:
    """A run of which everything is known."""
    count = len(names)
    generator = np.random.default_rng(0)
    images = generator.random((3, 3, 8, 8), dtype=np.float32)
    labels = np.arange(20) % count
    run = measured(names)
    paths = ["teacher", "student", run.artifacts[0].path]
    even = np.full(count, 1 / count, np.float32)
    grid = generator.dirichlet(np.ones(count), (9, 9)).astype(np.float32)
    values = {
        "name": "try",
        "folder": Path("runs/try"),
        "recipe": "recipe: 1\n",
        "environment": {},
        "epochs": [
            {"epoch": 1, "losses": {"ce": 2.0, "bss": 3.0}, "validation_top1": 50.0},
            {"epoch": 2, "losses": {"ce": 1.0}, "validation_top1": 75.0},
        ],
        "result": run,
        "benchmark": Benchmark(
            latencies={path: (latency(1, 4.0), latency(8, 9.0)) for path in paths}, versions={}, hardware={}
        ),
        "answers": Answers(
            fingerprint="f",
            files={"teacher": answer(labels, labels), "student": answer((labels + (labels == 1)) % count, labels)},
        ),
        "looked": Looked(
            examples=(
                BoundaryExample(
                    base=images[0], sample=images[1], label=0, target=1, steps=2, teacher=even, student=even
                ),
            ),
            plane=Slice(
                xs=np.linspace(-1, 1, 9, dtype=np.float32),
                ys=np.linspace(-1, 1, 9, dtype=np.float32),
                teacher=grid,
                student=grid[::-1],
                points=((0.0, 0.0), (0.5, 0.0), (0.1, 0.4)),
                classes=(0, 1, 2),
            ),
            disagreements=(
                Disagreement(
                    image=images[2],
                    label=1,
                    teacher=1,
                    teacher_probability=0.9,
                    student=2,
                    student_probability=0.6,
                ),
            ),
            notes=("a note",),
        ),
    }
    return Story(**(values | changes))


def gate(passed, value=1.0, detail="so and so"):
    word = {True: "held", False: "broken"}.get(passed, "unmeasured" if value is None else "undecided")
    return Gate(gate="min_top1", artifact="a.onnx", limit=90, value=value, verdict=word, passed=passed, detail=detail)


def with_gates(*gates) -> Story:
    return story(result=measured(("a", "b"), gates=gates))


# The verdict


@pytest.mark.parametrize(
    ("gates", "state", "title"),
    [
        ([gate(True)], "held", "The gate held"),
        ([gate(True), gate(True)], "held", "All 2 gates held"),
        ([gate(True), gate(False), gate(None)], "broken", "1 of 3 gates broken"),
        ([gate(True), gate(None, value=None)], "open", "1 of 2 gates wait for a measurement"),
        ([gate(True), gate(None)], "open", "No gate broken, 1 of 2 undecided"),
        ([], "plain", "97.00 % right, the teacher 98.00 %"),
    ],
)
def test_the_verdict_comes_from_the_gates(gates, state, title):
    found = sections.verdict(with_gates(*gates))

    assert (found.state, found.title) == (state, title)
    assert ("No gates were set" in found.sentence) is (not gates)


def test_the_sentence_says_what_was_kept_and_what_was_lost():
    assert sections.kept_and_lost(story()) == (
        "The student is right on 97.00 % of 359 test images, 1.00 points below its teacher (95 % interval 0.25 to 1.75 "
        "points lost). It has 3.6× fewer parameters and is 8.0× faster at batch 1 as onnx fp32."
    )


@pytest.mark.parametrize(
    ("drop", "interval", "words"),
    [
        (
            1.0,
            (-0.5, 2.5),
            "1.00 points below its teacher (95 % interval −0.50 to 2.50 points lost), a difference too small",
        ),
        (-1.0, (-1.5, -0.5), "1.00 points above its teacher (95 % interval −1.50 to −0.50 points lost). It has"),
        (0.0, (-0.5, 0.5), "just as its teacher (95 % interval −0.50 to 0.50 points lost). It has"),
    ],
)
def test_the_sentence_says_what_cannot_be_proved(drop, interval, words):
    run = measured(("a", "b"))
    student = run.student.model_copy(update={"accuracy_drop": drop, "accuracy_drop_ci": interval})

    assert words in sections.kept_and_lost(story(result=run.model_copy(update={"student": student})))


def test_a_run_without_a_teacher_is_judged_alone():
    run = measured(("a", "b"), teacher=None, artifacts=(), gates=())
    student = run.student.model_copy(update={"accuracy_drop": None})

    alone = story(result=run.model_copy(update={"student": student}))

    assert sections.kept_and_lost(alone) == (
        "The network is right on 97.00 % of 359 test images (95 % interval 96.00 to 99.00 %)."
    )
    assert sections.verdict(alone).title == "97.00 % right"


def test_broken_gates_come_first_and_say_why_once():
    found = sections.promises([gate(True), gate(None, detail="undecided: 1 of 2"), gate(False)])

    assert [promise.word for promise in found] == ["broken", "undecided", "held"]
    assert found[1].why == "1 of 2"
    assert sections.promises([gate(None, value=None, detail="not measured: no")])[0].word == "not measured"


# The table


def rows(groups):
    return {
        (group.title, measure.label): [cell.text for cell in measure.cells]
        for group in groups
        for measure in group.measures
    }


def test_the_table_has_a_column_a_file_and_a_dash_for_what_is_not_known():
    found = rows(sections.measures(story().files))

    assert found["Accuracy on the test images", "Top-1, with 95 % interval"] == ["98.00", "97.00", "97.00"]
    assert found["Against the teacher", "Agreement"] == ["–", "0.950", "0.950"]
    assert found["Against the teacher", "Largest logit error against the student"] == ["–", "–", "1e-06"]
    assert found["Latency, batch 8", "Median (p50), with 95 % interval"] == ["20.0", "10.0", "5.000"]
    assert found["Latency, batch 1", "Speed-up over the teacher"] == ["–", "2.00×", "8.00×"]
    assert ("Accuracy on the test images", "Top-5") not in found  # nobody has it


def test_no_speed_up_is_claimed_between_devices():
    run = measured(("a", "b"))
    moved = run.artifacts[0].model_copy(update={"provider": "cuda"})

    files = story(result=run.model_copy(update={"artifacts": (moved,)})).files

    assert [file.speed_up("1") for file in files] == [None, 2.0, None]
    assert [file.speed_up("32") for file in files] == [None, None, None]


def test_files_of_the_same_kind_are_told_apart():
    run = measured(("a", "b"))
    twice = (run.artifacts[0], run.artifacts[0].model_copy(update={"path": "export/student.uint8.fp32.onnx"}))

    labels = [file.label for file in story(result=run.model_copy(update={"artifacts": twice})).files]

    assert labels == ["teacher", "student", "onnx fp32 (student.fp32.onnx)", "onnx fp32 (student.uint8.fp32.onnx)"]


# The front


def test_the_front_holds_what_nothing_is_as_good_as():
    points = [(1.0, 90.0), (2.0, 95.0), (2.0, 94.0), (3.0, 95.0), (4.0, 99.0), (1.0, 90.0)]

    assert sections.pareto(points) == (True, True, False, False, True, True)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1))
def test_each_point_behind_the_front_has_one_on_it_that_is_as_good_in_both(points):
    on = sections.pareto(points)
    front = [point for point, is_on in zip(points, on, strict=True) if is_on]

    assert front
    for own, is_on in zip(points, on, strict=True):
        better = [other for other in front if other != own and other[0] <= own[0] and other[1] >= own[1]]
        assert bool(better) is not is_on


# Classes


def test_confusions_count_what_changed():
    labels, before, after = [0, 0, 1, 1, 2], [0, 0, 1, 0, 2], [0, 1, 1, 1, 0]
    answers = Answers(fingerprint="f", files={"teacher": answer(before, labels), "student": answer(after, labels)})

    found = sections.confusion(story(("a", "b", "c"), answers=answers))

    changes = [[cell.change for cell in row] for row in found.heat]
    assert changes == [[-1, 1, 0], [-1, 1, 0], [1, 0, -1]]
    assert found.heat[0][1].strength == 1
    assert found.heat[0][0].strength == -1
    assert [(pair.true, pair.said, pair.teacher, pair.student) for pair in found.pairs] == [
        ("a", "b", 0, 1),
        ("b", "a", 1, 0),
        ("c", "a", 0, 1),
    ]


def test_with_many_classes_the_pairs_that_changed_most_are_listed():
    names = tuple(f"c{number}" for number in range(21))
    labels = np.arange(210) % 21
    after = np.where(labels == 20, 3, labels)
    after[1] = 2
    answers = Answers(fingerprint="f", files={"teacher": answer(labels, labels), "student": answer(after, labels)})

    found = sections.confusion(story(names, answers=answers))

    assert found.heat is None
    assert [(pair.true, pair.said, pair.change) for pair in found.pairs] == [("c20", "c3", 10), ("c1", "c2", 1)]
    assert sections.confusion(story(names[:20], answers=None)) is None


def test_the_classes_that_lost_most_come_first():
    found = sections.class_changes(story())

    assert [(each.name, each.change) for each in found[:2]] == [("zero", -3.0), ("one", -2.0)]
    assert (found[0].teacher, found[0].student, found[0].images) == (90.0, 90.0, 4)


def test_disagreements_are_counted_by_who_is_right():
    labels, before, after = [0, 0, 1, 1, 2], [0, 0, 1, 0, 2], [0, 1, 1, 1, 0]
    before[4] = 1  # both wrong, and apart
    answers = Answers(fingerprint="f", files={"teacher": answer(before, labels), "student": answer(after, labels)})

    assert sections.disagreement_count(story(answers=answers)) == sections.DisagreementCount(3, 5, 1, 1, 1)


def test_answers_of_a_file_that_has_changed_since_are_not_used():
    files = {"teacher": answer([0], [0]), "student": answer([1], [0], sha256="another")}
    old = story(answers=Answers(fingerprint="f", files=files))

    assert old.answer("teacher") is not None
    assert old.answer("student") is None
    assert sections.confusion(old) is None
    assert sections.disagreement_count(old) is None


# Pictures


def test_a_picture_is_a_png_of_the_image():
    import base64
    import io

    from PIL import Image

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


def test_the_same_figure_is_the_same_text():
    once, again = (html.page(story()) for _ in range(2))

    assert once == again


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
    import base64
    import io

    from PIL import Image

    (data,) = re.findall(r'"data:image/png;base64,([^"]+)"', svg)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
    assert set(map(tuple, pixels.reshape(-1, 3).tolist())) == {(0, 255, 0)}


# The page


def test_every_part_is_on_the_page():
    page = Reader(html.page(story()))

    parts = {attributes.get("id") for attributes in page.of("section")}
    assert {"files", "training", "speed", "classes", "boundary", "disagreements", "origin"} <= parts
    assert len(page.of("svg")) == len(FIGURES)
    assert len(page.of("img")) == 4
    assert "compress run runs/try/recipe.resolved.yaml" in page.text


def test_the_page_loads_nothing_runs_nothing_and_can_be_read_aloud():
    page = Reader(html.page(story()))

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
    used = re.findall(r'(?:url\(|href=")#([\w-]+)', html.page(story()))
    assert set(used) <= set(ids)


def test_nothing_from_outside_becomes_markup():
    names = HOSTILE
    run = measured(names, name=HOSTILE[0], gates=(gate(False, detail=HOSTILE[2]),))
    noted = run.artifacts[0].model_copy(update={"note": HOSTILE[0], "path": HOSTILE[2]})
    run = run.model_copy(
        update={"artifacts": (noted,), "versions": {HOSTILE[0]: HOSTILE[2]}, "hardware": {"cpu": HOSTILE[0]}}
    )
    given = story(names, name=HOSTILE[0], folder=Path(HOSTILE[0]), recipe=HOSTILE[2], result=run)
    given = Story(**{**vars(given), "missing": (Missing(HOSTILE[0], HOSTILE[2]),)})

    for text in (html.page(given), html.comparison([given, given])):
        page = Reader(text)
        assert page.of("script") == []
        assert all((each.get("src") or "").startswith("data:") and "onerror" not in each for each in page.of("img"))
        assert HOSTILE[0] in page.text
        assert HOSTILE[2] in page.text
    whole = Reader(html.page(given))
    for name in names:
        assert name in whole.text


def test_a_class_that_looks_like_a_formula_stays_as_it_is():
    svg = figures.curves([figures.Line(0, [1], [1.0])], unit="$x_1$ <b>", description="d", name="f")

    assert "$x_1$ &lt;b&gt;" in svg


@pytest.mark.parametrize("part", ["result", "benchmark", "answers"])
def test_a_page_is_written_without_any_one_part(part):
    seen = {"looked": Looked()} if part == "result" else {}  # nobody looks at a run that is not trained
    page = Reader(html.page(story(**{part: None, "missing": (Missing("something", "compress try"),)}, **seen)))

    assert "something: compress try" in page.text


def test_a_page_is_written_without_epochs_images_or_anything():
    bare = Story("try", Path("runs/try"), "", {}, [])

    assert "Not finished" in Reader(html.page(bare)).text
    assert (
        Reader(html.page(story(epochs=[], looked=Looked(reason="the teacher is gone")))).text.count(
            "the teacher is gone"
        )
        == 1
    )


def test_a_large_set_of_classes_still_makes_a_small_page():
    names = tuple(f"class number {number}" for number in range(1000))

    assert len(html.page(story(names))) < 3e6


# Several runs


def test_a_comparison_has_a_column_a_student_and_says_what_does_not_compare():
    other = measured(("a", "b"))
    data = other.data.model_copy(update={"fingerprint": "other"})
    runs = [story(), story(name="again", result=other.model_copy(update={"data": data}))]

    page = Reader(html.comparison(runs))

    assert "different test images" in page.text
    assert "different machines" not in page.text
    heads = re.findall(r'<th scope="col">(\w+)<small>', html.comparison(runs))
    assert heads == ["try", "again"]
    assert len(page.of("svg")) == 5
    assert "different test images" not in Reader(html.comparison([story(), story(name="again")])).text


def test_a_teacher_that_runs_share_is_compared_once():
    labels = [file.label for file in sections.compared([story(), story(name="again")])]

    assert labels == ["teacher", "try: student", "try: onnx fp32", "again: student", "again: onnx fp32"]


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
    monkeypatch.setattr("compressor.gallery.affordable", lambda *_: (64, 17))
    shutil.copytree(finished / "runs", tmp_path / "runs", symlinks=True)
    monkeypatch.chdir(tmp_path)
    return Path("runs/student-1")


def reported(run) -> tuple[str, str]:
    """The text of the page and what the command said besides."""
    done = ran(["report", str(run)])
    return Reader((run / "report" / "report.html").read_text(encoding="utf-8")).text, done.err


def test_validate_keeps_what_every_file_said(finished):
    found = Answers.read(finished / "runs/student-1/predictions.npz")
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


def pipeline_story(run) -> Story:
    return Story("s", run, "", {}, [], record.read(run), None, Answers.read(run / "predictions.npz"))


def test_data_that_have_changed_cost_the_disagreements_pictures(run):
    found = Answers.read(run / "predictions.npz")
    fewer = {
        name: Answer(
            sha256=each.sha256,
            labels=each.labels[:-1],
            classes=each.classes[:-1],
            probabilities=each.probabilities[:-1],
        )
        for name, each in found.files.items()
    }
    Answers(fingerprint="f", files=fewer).write(run / "predictions.npz")

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
    from compressor.pipeline.opened import open_run
    from compressor.pipeline.report import report_stage
    from compressor.runs import Run

    place = report_stage(open_run(Run(run), Tell(quiet=True)), Tell(quiet=True))

    assert place == run / "report" / "report.html"
    assert "Decision regions" in place.read_text(encoding="utf-8")


def test_a_new_run_in_the_same_folder_forgets_the_old_report(run):
    from compressor.runs import create

    reported(run)
    create("x", out=run, overwrite=True)

    assert not (run / "report" / "report.html").exists()
    assert not (run / "predictions.npz").exists()


def test_drawing_says_nothing_and_warns_of_nothing(run, capfd):
    names = ("寿司", "पिज़्ज़ा", "🍕", "x" * 300, "")
    html.page(story(names))
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
    hostile = story(long, name=HOSTILE[2] * 5, recipe="x" * 500, folder=Path("y" * 400))
    paths["hostile"].write_text(html.page(hostile), encoding="utf-8")
    paths["many"].write_text(html.page(story(tuple(f"class {number}" for number in range(200)))), encoding="utf-8")
    half = Story("half", Path("runs/half"), "recipe: 1", {}, [], missing=(Missing("all", "compress " + "z" * 300),))
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
