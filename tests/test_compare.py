"""`compress compare`: what makes pairs, what is trained and what is not, how it stops and fails, and what is shown."""

import json
import os
import re
import shutil
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch
from shell import COMPARED, ran, refused, typed

from compressor.errors import CompressError, Diverged
from compressor.machine.workers import Ended, SideBySide
from compressor.measure.paired import Cell
from compressor.pipeline import bench as bench_run
from compressor.pipeline import compare, staged
from compressor.pipeline.compare import choosing, sharing
from compressor.progress import Tell
from compressor.recipe import load
from compressor.report import comparison
from compressor.report.comparison import plot
from compressor.runs import record
from compressor.runs.folder import Run
from compressor.runs.lock import working

RECIPE = f"""{COMPARED}
train: {{epochs: 1, lr: 0.05, schedule: {{kind: constant}}}}
bench: {{batch_sizes: [1, 4], warmup_s: 0.01, duration_s: 0.02, min_iterations: 3}}
gates: {{min_top1: 99.9}}
"""
COMPARE = ["compare", "mine.yaml", "--quiet"]
FOLDER = Path("runs/mine-compare")


@pytest.fixture
def lab(taught, tmp_path, monkeypatch):
    """A working folder with a recipe."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(RECIPE.replace("checkpoint: teacher", f"checkpoint: {taught}"))
    return tmp_path


@contextmanager
def in_this_process():
    """Do in this process what processes would do; yields what was done, in order."""
    done = []

    def one_by_one(self, tasks, *_):
        for task in tasks:
            verb, folder = task.arguments[0], Path(task.arguments[1])
            done.append((verb, folder.name))
            try:
                bench_run(folder, Tell(quiet=True)) if verb == "bench" else compare.compare_cell(folder)
            except CompressError as error:
                yield Ended(task, error.exit_code, error.message)
            else:
                yield Ended(task, 0, "")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SideBySide, "run", one_by_one)
        yield done


@pytest.fixture
def inline():
    with in_this_process() as done:
        yield done


@pytest.fixture(scope="module")
def trained(taught):
    """A folder where three methods were compared from two seeds."""
    folder = taught.parent / "trained"
    folder.mkdir()
    (folder / "mine.yaml").write_text(RECIPE.replace("checkpoint: teacher", f"checkpoint: {taught}"))
    with pytest.MonkeyPatch.context() as patch, in_this_process() as done:
        patch.chdir(folder)
        ran([*COMPARE, "--seeds", "2"])
    assert len(done) == 6
    return folder


@pytest.fixture
def after(trained, tmp_path, monkeypatch, inline):
    """A copy of that folder to work in; like `inline`, and nothing was done yet."""
    shutil.copytree(trained, tmp_path / "after")
    monkeypatch.chdir(tmp_path / "after")
    return inline


# What makes pairs


def test_the_same_seed_means_the_same_weights_and_the_same_images_for_every_method(lab, inline, monkeypatch):
    seen = {}

    def first_step(state, batches):
        objective = type(state.objective).__name__
        weights = torch.cat([value.flatten().float() for value in state.student.state_dict().values()])
        batch = next(iter(batches(0, 0)))
        seen[objective, state.seed] = (weights.clone(), batch.images.clone(), batch.labels.clone())
        raise Diverged("seen enough")

    monkeypatch.setattr(staged, "fit", first_step)
    refused([*COMPARE, "--seeds", "2"], 5, "every training failed; lenet5-half-ce-s0: seen enough")

    methods = {objective for objective, _ in seen}
    assert len(methods) == 3
    for seed in (0, 1):
        first, *others = [seen[method, seed] for method in methods]
        for other in others:
            assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    for zero, one in zip(seen[methods.pop(), 0], seen[methods.pop(), 1], strict=True):
        assert not torch.equal(zero, one)


def test_a_cell_has_the_recipe_but_for_student_method_seed_exports_and_gates(lab):
    base = load(lab / "mine.yaml")

    chosen = choosing.choices(base, ["kd", "ce", "bss"], [], {})
    kd, ce = (chosen.recipe(Cell("lenet5", method, 7)) for method in ("kd", "ce"))

    for each in (kd, ce):
        assert (each.seed, each.student.arch, each.export) == (7, "lenet5", ())
        assert each.gates.min_top1 is None
        assert (each.data, each.train, each.teacher) == (base.data, base.train, base.teacher)
    assert (kd.method.kind, kd.method.temperature) == ("kd", 2.5)  # shared with the recipe's method
    assert ce.method.kind == "ce"
    assert chosen.recipe(Cell("lenet5-half", "bss", 0)).method == base.method


# What is trained, and what comes out


def test_rows_are_the_pairs_of_the_records(after):
    shown = json.loads(ran([*COMPARE, "--seeds", "2", "--json"]).out)

    assert after == []
    top1 = {
        (method, seed): record.read(FOLDER / f"lenet5-half-{method}-s{seed}").student.top1
        for method in ("ce", "kd", "bss")
        for seed in (0, 1)
    }
    rows = {row["method"]: row for row in shown["rows"]}
    for method, row in rows.items():
        assert row["seeds"] == [0, 1]
        assert row["spreads"]["top1"]["mean"] == pytest.approx((top1[method, 0] + top1[method, 1]) / 2)
        assert all(
            row["spreads"][name]["n"] == 2 for name in ("agreement", "boundary_agreement", "pgd_top1", "seconds")
        )
    gain = next(d for d in rows["bss"]["differences"] if (d["baseline"], d["metric"]) == ("kd", "top1"))
    pairs = [top1["bss", seed] - top1["kd", seed] for seed in (0, 1)]
    assert gain["spread"]["mean"] == pytest.approx(sum(pairs) / 2)
    assert rows["kd"]["cost"] == 1
    assert shown == json.loads((FOLDER / "compare.json").read_text())
    cells = {cell["name"]: cell for cell in shown["cells"]}
    for name, cell in cells.items():
        epochs = Run(FOLDER / name).epochs()
        assert cell["seconds"] == pytest.approx(sum(epoch["seconds"] for epoch in epochs))
        assert cell["images_per_s"] == pytest.approx(epochs[0]["images_per_s"])
    assert shown["teacher"]["arch"] == "lenet5"
    assert shown["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert not Path("runs/latest").exists()


def test_what_is_finished_is_not_trained_again_and_more_of_the_grid_joins_it(after):
    before = {path: path.stat().st_mtime_ns for path in FOLDER.glob("*/student/student.safetensors")}

    done = ran([*COMPARE, "--methods", "ce,kd", "--seeds", "3"])

    assert after == [("compare-cell", "lenet5-half-ce-s2"), ("compare-cell", "lenet5-half-kd-s2")]
    assert len(before) == 6
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert re.search(r"kd minus ce on lenet5-half: .* of 3 seeds won", done.out)
    assert "bss" not in done.out


def test_a_cell_that_was_trained_and_not_examined_is_examined(after):
    where = FOLDER / "lenet5-half-kd-s0"
    result, weights = record.read(where), (where / "student/student.safetensors").stat().st_mtime_ns
    bare = result.student.model_copy(update={"boundary_agreement": None, "pgd_top1": None})
    unexamined = result.data.model_copy(update={"boundary_samples": None, "attack_samples": None})
    result.model_copy(update={"student": bare, "data": unexamined}).write(where)

    ran([*COMPARE, "--seeds", "2"])

    assert after == [("compare-cell", "lenet5-half-kd-s0")]
    assert record.read(where).student.boundary_agreement == result.student.boundary_agreement
    assert (where / "student/student.safetensors").stat().st_mtime_ns == weights


def test_another_recipe_teacher_or_data_in_the_folder_is_refused_unless_it_may_be_overwritten(after):
    two = [*COMPARE, "--methods", "ce,kd", "--seeds", "1"]
    where = FOLDER / "lenet5-half-ce-s0"
    refused([*two, "--lr", "0.01"], 2, f"{where} was made with train.lr 0.05, not 0.01", "--overwrite")
    result = record.read(where)

    result.model_copy(update={"teacher": result.teacher.model_copy(update={"sha256": "0" * 64})}).write(where)
    refused(two, 4, f"{where} was compared with another teacher", "--overwrite")
    result.model_copy(update={"data": result.data.model_copy(update={"fingerprint": "0" * 16})}).write(where)
    refused(two, 4, f"{where} was trained on other images of digits", "--overwrite")
    assert after == []

    ran([*two, "--lr", "0.01", "--overwrite"])
    assert len(after) == 2
    assert load(where / "recipe.resolved.yaml").train.lr == 0.01


def test_bench_times_the_students_one_at_a_time(after):
    two = [*COMPARE, "--methods", "ce,kd", "--seeds", "1", "--bench"]
    done = ran(two)

    assert after == [("bench", "lenet5-half-ce-s0"), ("bench", "lenet5-half-kd-s0")]
    p50 = record.read(FOLDER / "lenet5-half-ce-s0").student.latency_ms["1"].p50
    assert f"{p50:.2f}" in done.out
    after.clear()
    ran(two)
    assert after == []


def test_a_dry_run_prints_the_cells_and_writes_nothing(lab, inline):
    done = ran([*COMPARE, "--seeds", "3,7", "--dry-run"])

    lines = done.out.splitlines()
    assert lines[0] == "lenet5-half-ce-s3  0 of 1 epochs done"
    assert re.fullmatch(r"6 of 6 trainings to do in .*, \d+ at a time: 1 epochs of 1,294 images each", lines[6])
    assert not FOLDER.exists()
    listed = json.loads(ran([*COMPARE, "--seeds", "3,7", "--dry-run", "--json"]).out)
    assert [cell["cell"] for cell in listed["cells"]][3:] == [f"lenet5-half-{m}-s7" for m in ("ce", "kd", "bss")]
    assert inline == []


# What varies beside methods, students and seeds


def dry(arguments):
    """The cells that a comparison would train."""
    listed = json.loads(ran([*COMPARE, *arguments, "--seeds", "1", "--dry-run", "--json"]).out)
    return [cell["cell"].removeprefix("lenet5-half-").removesuffix("-s0") for cell in listed["cells"]]


def test_methods_come_from_files_from_those_that_come_along_and_from_code(lab):
    (lab / "own.yaml").write_text("method: {kind: kd, temperature: 9}\n")
    methods = ["kd", "own.yaml", "kd+lskd", "example_plugin.method:Fading"]

    planned = compare.plan(load(lab / "mine.yaml"), Tell(quiet=True), methods=methods, seeds=[0])

    found = {cell.method: recipe.method for cell, recipe in planned.recipes.items()}
    assert list(found) == ["kd", "own", "kd+lskd", methods[3]]
    assert (found["kd"].temperature, found["own"].temperature) == (2.5, 9)
    assert found["kd+lskd"].soft.kind == "lskd"
    assert type(found[methods[3]]).__name__ == "Fading"
    names = [cell.name for cell in planned.recipes]
    assert names[3] == "lenet5-half-example_plugin.method-Fading-s0"


def test_a_file_may_stand_for_a_baseline_but_not_for_another_method(lab):
    (lab / "kd.yaml").write_text("method: {kind: kd, temperature: 9}\n")
    (lab / "ce.yaml").write_text("method: {kind: kd}\n")

    assert dry(["--methods", "kd.yaml,bss"]) == ["kd", "bss"]
    refused([*COMPARE, "--methods", "kd.yaml,kd"], 2, "the method kd is named twice")
    refused([*COMPARE, "--methods", "ce.yaml,kd"], 2, "ce.yaml is called like the method ce and holds kd", "rename")


def test_each_method_of_one_teacher_learns_from_each_and_one_of_several_from_all(lab, taught):
    shutil.copytree(taught, lab / "other")
    both = ["--teachers", f"{taught},other"]

    assert dry([*both, "--methods", "ce,kd,avg"]) == ["ce", "kd-teacher", "kd-other", "avg"]
    recipe, tell = load(lab / "mine.yaml"), Tell(quiet=True)
    planned = compare.plan(recipe, tell, methods=["ce", "kd", "avg"], seeds=[0], teachers=[taught, "other"])
    teachers = [[each.checkpoint.name for each in of.teachers] for of in planned.recipes.values()]
    assert teachers == [["teacher"], ["teacher"], ["other"], ["teacher", "other"]]
    assert dry(["--teachers", "other", "--methods", "ce,kd"]) == ["ce", "kd"]  # one is no choice


def test_a_key_varies_where_a_method_has_it(lab):
    values = ["--vary", "method.temperature=1,2.5", "--vary", "train.schedule.warmup=0,0.5"]

    assert dry(["--methods", "ce,kd", *values]) == [
        "ce-train.schedule.warmup-0",
        "ce-train.schedule.warmup-0.5",
        *(
            f"kd-method.temperature-{temperature}-train.schedule.warmup-{warmup}"
            for temperature in ("1", "2.5")
            for warmup in ("0", "0.5")
        ),
    ]
    chosen = choosing.choices(load(lab / "mine.yaml"), ["kd"], [], {"train.schedule.at": [[0.5], [0.25, 0.5]]})
    assert [chosen.recipe(cell).train.schedule.at for cell in chosen.cells(["lenet5"], [0])] == [(0.5,), (0.25, 0.5)]


@pytest.mark.trains
def test_a_target_domain_has_a_column_and_differences_of_its_own(lab, inline):
    options = ["--methods", "uda", "--vary", "method.mmd_weight=0,1", "--target", "digits", "--seeds", "1"]
    shown = ran([*COMPARE, *options]).out

    assert "| top-1 % | target % |" in (FOLDER / "compare.md").read_text()
    compared = json.loads((FOLDER / "compare.json").read_text())
    for row in compared["rows"]:
        assert row["spreads"]["target_top1"]["mean"] == row["spreads"]["top1"]["mean"]  # the same images
    assert "uda method.mmd_weight=1 minus uda method.mmd_weight=0 on lenet5-half: " in shown
    assert "points of target top-1" in shown


def test_what_varies_has_a_column_and_is_compared_with_its_first(lab, inline):
    shown = ran([*COMPARE, "--methods", "kd", "--vary", "train.lr=0.05,0.01", "--seeds", "1"]).out

    heading, _, first, second = shown.splitlines()[2:6]
    assert re.match(r"\s+student\s+method\s+train\.lr\s+seeds", heading)
    assert "top-1 minus first" in heading
    assert re.match(r"\s+lenet5-half\s+kd\s+0\.05\s", first)
    assert re.match(r"\s+lenet5-half\s+kd\s+0\.01\s", second)
    assert re.search(r"^kd train\.lr=0\.01 minus kd train\.lr=0\.05 on lenet5-half: ", shown, re.MULTILINE)
    rows = json.loads((FOLDER / "compare.json").read_text())["rows"]
    assert [row["varied"] for row in rows] == [{"train.lr": "0.05"}, {"train.lr": "0.01"}]
    assert load(FOLDER / "lenet5-half-kd-train.lr-0.01-s0/recipe.resolved.yaml").train.lr == 0.01
    assert "train.lr=0.01" in (FOLDER / "compare.svg").read_text()
    inline.clear()
    ran([*COMPARE, "--methods", "kd", "--vary", "train.lr=0.05,0.01", "--seeds", "1"])
    assert inline == []


# What fails


def test_a_cell_that_fails_stops_no_other_and_is_told_at_the_end(after, monkeypatch):
    for name in ("lenet5-half-bss-s0", "lenet5-half-bss-s1"):
        shutil.rmtree(FOLDER / name)
    honest, reason = staged.fit, "the loss term 'bss' became NaN at step 3"

    def diverging(state, batches):
        if state.seed == 0:
            raise Diverged(reason)
        return honest(state, batches)

    monkeypatch.setattr(staged, "fit", diverging)
    done = typed([*COMPARE, "--methods", "kd,bss", "--seeds", "2", "--json"])

    assert done.code == 5
    assert "error: 1 of 4 trainings failed: lenet5-half-bss-s0" in done.err
    shown = json.loads(done.out)
    assert shown["failures"] == [{"cell": "lenet5-half-bss-s0", "exit_code": 5, "reason": reason}]
    bss = next(row for row in shown["rows"] if row["method"] == "bss")
    assert (bss["seeds"], bss["failed"]) == ([1], [0])
    assert f"lenet5-half-bss-s0 failed (exit code 5): {reason}" in (FOLDER / "compare.md").read_text()
    after.clear()
    monkeypatch.setattr(staged, "fit", honest)
    ran([*COMPARE, "--methods", "kd,bss", "--seeds", "2"])
    assert after == [("compare-cell", "lenet5-half-bss-s0")]


@pytest.mark.parametrize(
    ("arguments", "words", "hint"),
    [
        (["--methods", "ce,kdd"], "unknown method 'kdd'", "did you mean 'kd'"),
        (["--methods", "ce,bss+lksd"], "unknown method 'bss+lksd'", "did you mean 'bss+lskd'"),
        (["--methods", "ce,none.yaml"], "there is no recipe file none.yaml", ""),
        (["--methods", "kd,kd+nd"], "the network has no module 'layer3'", ""),
        (["--methods", "kd,no.such:Method"], "there is no module 'no'", ""),
        (["--teachers", "a.pt,,b.pt"], "--teachers takes names with commas", ""),
        (["--teachers", "teacher,teacher"], "--teachers names a file twice", ""),
        (["--methods", "kd,avg"], "method avg learns from 2 teachers, and the recipe names 1", "teachers: "),
        (["--vary", "method.temperature"], "--vary method.temperature has no =", "--vary method.temperature=1,2,4"),
        (
            ["--methods", "kd,bss", "--vary", "method.temprature=1,2"],
            "--vary method.temprature=1: unknown key method.temprature",
            "did you",
        ),
        (["--vary", "method.temperature=1,-2"], "--vary method.temperature=-2: method.temperature", ""),
        (["--vary", "method.temperature=1,1"], "--vary method.temperature has 1 twice", ""),
        (["--vary", "train.lr=0.1", "--vary", "train.lr=0.2"], "--vary train.lr is given twice", ""),
        (["--vary", "train.lr="], "there is no train.lr to compare", ""),
        (["--vary", "seed=1,2"], "--vary seed has a flag of its own", "--seeds 0,1,2"),
        (["--vary", "teacher.arch=a,b"], "--vary teacher.arch has a flag of its own", "--teachers a.pt,b.pt"),
        (["--vary", "data.validation=0.1,0.2"], "--vary data.validation changes the images", ""),
        (["--vary", "gates.min_top1=1,2"], "--vary gates.min_top1 does not change how a student is trained", ""),
        (["--methods", "ce,,kd"], "--methods takes names with commas", ""),
        (["--methods", "ce,ce"], "the method ce is named twice", ""),
        (["--methods", "kd"], "nothing to compare kd on lenet5-half with", "--methods ce,kd,bss"),
        (["--students", "restnet8"], "restnet8", "did you mean"),
        (["--students", "lenet5,lenet5"], "the student lenet5 is named twice", ""),
        (["--seeds", "0"], "--seeds takes a count", "--seeds 3,7,9"),
        (["--seeds", "1.5"], "--seeds takes a count", ""),
        (["--seeds", "3,3"], "the seed 3 is named twice", ""),
        (["--jobs", "0"], "--jobs takes a number", ""),
        (["--set", "teacher=null"], "learns from a teacher", "--teacher FILE"),
        (["--set", "student.init=teacher", "--students", "lenet5"], "student.init holds weights of lenet5-half", ""),
        (["--set", "train.epoch=3"], "unknown key train.epoch", "did you mean"),
    ],
)
def test_what_could_only_fail_later_is_refused_before_anything_is_written(lab, arguments, words, hint):
    refused([*COMPARE, *arguments], 2, re.escape(words), re.escape(hint))
    assert not FOLDER.exists()


def test_two_comparisons_in_one_folder_are_one_too_many(lab, inline):
    FOLDER.mkdir(parents=True)
    with working(FOLDER):
        refused(COMPARE, 2, "another process works in runs/mine-compare")


# Processes


@pytest.mark.starts
def test_an_interrupt_saves_every_training_and_the_same_command_goes_on(lab, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = [*COMPARE, "--methods", "ce,kd", "--seeds", "1", "--jobs", "2", "--epochs", "12"]
    runs = [Run(FOLDER / f"lenet5-half-{method}-s0") for method in ("ce", "kd")]

    def ctrl_c():
        while not all(run.metrics.exists() for run in runs):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=ctrl_c, daemon=True).start()
    first = typed(command)

    assert first.code == 130, first.err
    assert re.search(r"error: interrupted with [12] of 2 trainings unfinished; their states are saved", first.err)
    assert "hint: the same command goes on" in first.err
    stopped = [run for run in runs if not (run.folder / "result.json").exists()]
    assert stopped
    assert all(run.last.exists() for run in stopped)
    assert all("interrupted in epoch" in run.log.read_text() for run in stopped)

    done = ran(command)
    assert "kd minus ce on lenet5-half" in done.out
    for run in runs:
        assert [row["epoch"] for row in run.epochs()] == list(range(1, 13))
    assert all(re.search(r"resuming after ([1-9]|1\d) of 12 epochs", run.log.read_text()) for run in stopped)
    assert "trained 2 at a time" in done.out


@pytest.mark.parametrize(
    ("cores", "omp", "memory_gib", "asked", "expected"),
    [
        (2, None, 64, None, (1, 2)),
        (8, None, 64, None, (2, 4)),
        (64, None, 64, None, (6, 10)),  # no more than there are cells
        (8, "1", 64, None, (6, 1)),
        (64, None, 5, None, (2, 32)),
        (64, None, 0.5, None, (1, 64)),
        (8, None, None, 3, (3, 2)),
        (8, "2", 1, 3, (3, 2)),
        (2, None, 64, 6, (6, 1)),
    ],
)
def test_trainings_share_cores_and_memory(monkeypatch, cores, omp, memory_gib, asked, expected):
    monkeypatch.setattr(sharing, "cores", lambda: frozenset(range(cores)))
    monkeypatch.setattr(sharing, "_available_bytes", lambda: memory_gib and int(memory_gib * 2**30))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if omp:
        monkeypatch.setenv("OMP_NUM_THREADS", omp)
    cells = {Cell("a", method, seed): None for seed in (0, 1) for method in ("ce", "kd", "bss")}

    assert sharing.shares(SimpleNamespace(device=torch.device("cpu")), cells, asked) == expected


def test_on_a_gpu_the_memory_of_one_step_decides(monkeypatch):
    monkeypatch.setattr(sharing, "cores", lambda: frozenset(range(64)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(sharing, "_cuda_memory", lambda prepared, recipes: (40.0, 12.0))
    cells = {Cell("a", "kd", seed): None for seed in range(9)}

    assert sharing.shares(SimpleNamespace(device=torch.device("cuda")), cells, None)[0] == 3


def test_a_dry_step_trains_one_batch_and_leaves_the_teacher_alone(lab):
    planned = compare.plan(load(lab / "mine.yaml"), Tell(quiet=True), methods=["kd", "bss"], seeds=[0])
    teacher = planned.prepared.teacher.module
    before = {name: value.clone() for name, value in teacher.state_dict().items()}

    for recipe in planned.recipes.values():
        sharing.dry_step(planned.prepared, recipe)

    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not FOLDER.exists()


# What is shown


@pytest.fixture
def compared(after):
    tell = Tell(quiet=True)
    return compare.compare(compare.plan(load(Path("mine.yaml")), tell, methods=["ce", "kd"], seeds=[0]), tell)


def with_top1(compared, **by_method):
    """The same comparison with these accuracies, one a seed."""
    from compressor.measure.paired import analyse

    some = next(iter(compared.outcomes.values()))
    outcomes = {
        Cell("lenet5-half", method, seed): replace(some, top1=value)
        for method, values in by_method.items()
        for seed, value in enumerate(values)
    }
    return replace(compared, outcomes=outcomes, rows=analyse(tuple(outcomes), outcomes))


def test_words_say_what_the_interval_allows_to_say(compared):
    def words(**values):
        return next(iter(comparison.sentences(with_top1(compared, **values))))

    on = "on lenet5-half"
    assert (
        words(ce=[50], kd=[52])
        == f"kd minus ce {on}: +2.00 points of top-1 from one seed, which has no interval: not shown"
    )
    assert words(ce=[50, 60, 70], kd=[52, 62.1, 71.9]) == (
        f"kd minus ce {on}: +2.00 points of top-1, 95 % interval +1.75 to +2.25, 3 of 3 seeds won, 0 lost: better"
    )
    assert words(kd=[50, 60, 70], ce=[52, 62.1, 71.9]).endswith(
        "interval -2.25 to -1.75, 0 of 3 seeds won, 3 lost: worse"
    )
    assert words(ce=[50, 60, 70], kd=[50, 64, 69]).endswith("holds zero, 1 of 3 seeds won, 1 lost: not shown")
    assert words(ce=[50, 60], kd=[51, 61]).endswith("the same in all 2 seeds, which gives no interval: not shown")


def test_markdown_has_the_table_the_origin_and_no_markup_of_others(compared):
    odd = replace(compared, name="a|<b>*c*")

    text = comparison.to_markdown(odd)

    assert text.startswith("# Comparison a&#124;&lt;b&gt;\\*c\\*: digits, 359 test images, 1 epochs\n")
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(table) == 3
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert "![" in text
    assert "(compare.svg)" in text
    assert f"compressor {compared.versions['compressor']}, torch" in text
    assert f"teacher lenet5 ({compared.teacher.sha256[:12]}) with {compared.teacher.top1:.2f} %" in text


def test_a_terminal_and_the_plot_do_not_act_on_names(compared, capsys):
    from compressor.cli.output import draw

    cell, outcome = next(iter(compared.outcomes.items()))
    odd = replace(cell, method="kd\x1b[2J", varied=(("teacher", "[red]<b>&\x07\n::error::"),))
    row = replace(compared.rows[0], method=odd.method, varied=odd.varied)
    named = replace(compared, name="a\x1b[2J", outcomes={odd: outcome}, rows=(row,))

    draw(comparison.table(named))
    shown = capsys.readouterr().out
    assert "kd\\x1b[2J" in shown
    assert "[red]<b>&\\x07\\n::error::" in shown
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", shown)
    svg = plot.to_svg(named)
    assert "".join(ElementTree.fromstring(svg).itertext()).count("<b>&\\x07\\n::error::") == 1
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", svg)


def test_the_plot_has_a_point_a_seed_and_the_ink_of_the_page(compared):
    many = with_top1(compared, ce=[50, 60, 70], kd=[52, 62.1, 71.9])

    svg = plot.to_svg(many)

    root = ElementTree.fromstring(svg)
    assert root.get("class") == "compress-compare"
    texts = "".join(root.itertext())
    assert "lenet5-half" in texts
    assert "prefers-color-scheme:dark" in texts
    colours = {mark for mark, _ in plot._MARKS}
    assert set(re.findall("(?:stroke|fill): (#[0-9a-f]{6})", svg)) <= colours  # all else is the page's ink
    assert "currentColor" in svg
    points = [each for each in root.iter() if each.get("id", "").startswith("PathCollection")]
    assert [len(list(each.iter("{http://www.w3.org/2000/svg}use"))) for each in points] == [3, 3]
    assert plot.to_svg(many) == svg


def test_no_interval_is_cut(compared):
    few = with_top1(compared, ce=[50, 60], kd=[52, 62.1])  # of two seeds: 55 - 63.5 to 55 + 63.5

    assert max(plot._ends(few)) > 118
    low, high = plot._frame([50, 60, 52, 62.1], plot._ends(few))
    assert low < min(plot._ends(few))
    assert high > max(plot._ends(few))


def test_the_frame_is_that_of_the_points():
    assert plot._frame([50, 60], [49, 61]) == (45, 65)
    assert plot._frame([70, 70], []) == (69.5, 70.5)
    low, high = plot._frame([0, 100], [])
    assert -6 < low < 0
    assert 100 < high < 106
