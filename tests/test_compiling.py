"""`train.compile: auto`: what is chosen follows from what was measured; here the clock says what the test wants."""

import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from compressor.data import open_data
from compressor.errors import Interrupted
from compressor.inputs import Prepared
from compressor.models import Normalized
from compressor.pipeline import compiling
from compressor.pipeline.fastest import with_fastest
from compressor.pipeline.staged import new_state
from compressor.pipeline.train import resume, train
from compressor.progress import Tell
from compressor.recipe import build, load
from compressor.runs.folder import Run
from compressor.training.distributed import Processes

CPU = torch.device("cpu")
PLAIN, FIRST, LATER = 12, 4, 8  # steps that are timed: without a compiler, with one at first, with one later
QUIET = Tell(quiet=True)


@pytest.fixture
def compiled(monkeypatch):
    """What was given to the compiler, which gives back what it is given."""
    given = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: given.append(function) or function)
    return given


@pytest.fixture
def clock(monkeypatch):
    """A function that tells the clock what steps take; it returns how many have been taken."""

    def tells(*seconds):
        taken, left = [], iter(seconds)
        monkeypatch.setattr(compiling, "seconds", lambda work: (taken.append(work()), next(left))[1])
        return taken

    return tells


def prepared(tiny, tmp_path, epochs=80, stages=None, **settings):
    train = {"epochs": epochs, "compile": "auto", **settings}
    recipe = build(
        {
            "data": {"name": "digits", "batch_size": 64},
            "teacher": {"checkpoint": "teacher.pt"},
            "student": {"arch": "lenet5"},
            **({"stages": stages} if stages else {"method": {"kind": "kd"}, "train": train}),
        },
        base=tmp_path,
    )
    teacher = SimpleNamespace(module=Normalized(tiny(10, 1), (0.5,), (0.25,)).eval(), mean=(0.5,), std=(0.25,))
    return Prepared(CPU, open_data(recipe.data, device=CPU), (teacher,), recipe)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("times", "chosen", "said"),
    [
        (
            [1.0] * PLAIN + [10.0] * FIRST + [0.5] * LATER,
            True,
            "step: compiled (500.0 ms a step after 40 s, 1000.0 ms without, 1,680 steps)",
        ),
        ([1.0] * PLAIN + [10.0] * FIRST + [0.99] * LATER, False, "step: not compiled (990.0 ms"),  # within noise
        ([1.0] * PLAIN + [500.0] * FIRST + [0.5] * LATER, False, "step: not compiled (500.0 ms"),  # starts too slowly
        ([0.01] * PLAIN, False, ""),  # the training is over before a compiler would be
    ],
)
def test_code_is_compiled_where_that_makes_the_training_shorter(
    tiny, tmp_path, compiled, clock, capsys, times, chosen, said
):
    taken = clock(*times)
    found = with_fastest(prepared(tiny, tmp_path), Tell())
    assert found.recipe.train.compile is chosen
    assert len(taken) == len(times)
    assert bool(compiled) == (len(times) > PLAIN)
    err = " ".join(capsys.readouterr().err.split())
    assert said in err
    assert ("step:" in err) == bool(said)


def test_a_training_of_few_steps_is_not_measured(tiny, tmp_path, compiled, clock):
    taken = clock()
    assert with_fastest(prepared(tiny, tmp_path, epochs=4), QUIET).recipe.train.compile is False
    assert taken == compiled == []


@pytest.mark.parametrize("asked", [True, False])
def test_what_is_asked_for_is_not_measured(tiny, tmp_path, clock, asked):
    given = prepared(tiny, tmp_path, compile=asked)
    assert with_fastest(given, QUIET) is given


def test_a_compiler_that_fails_is_done_without(tiny, tmp_path, monkeypatch, clock, capsys):
    def broken(*_, **__):
        raise RuntimeError("g++ is not here\nand a page of this")

    monkeypatch.setattr(torch, "compile", broken)
    clock(*[1.0] * (PLAIN + FIRST))
    assert with_fastest(prepared(tiny, tmp_path), Tell()).recipe.train.compile is False
    said = " ".join(capsys.readouterr().err.split())
    assert said == "step: not compiled, for the compiler fails (RuntimeError: g++ is not here)"


def test_steps_that_are_timed_change_nothing(tiny, tmp_path, compiled, clock):
    clock(*[1.0] * PLAIN, *[10.0] * FIRST, *[0.5] * LATER)
    given = prepared(tiny, tmp_path)
    teacher = {name: each.clone() for name, each in given.teachers[0].module.state_dict().items()}
    before = new_state(given).student.state_dict()
    after = new_state(with_fastest(given, QUIET)).student.state_dict()
    torch.testing.assert_close(dict(after), dict(before), rtol=0, atol=0)
    torch.testing.assert_close(dict(given.teachers[0].module.state_dict()), teacher, rtol=0, atol=0)


def test_each_stage_is_measured_by_itself(tiny, tmp_path, compiled, clock):
    clock(*[1.0] * PLAIN, *[10.0] * FIRST, *[0.5] * LATER)
    stages = [
        {"method": {"kind": "ce"}, "train": {"epochs": 80, "compile": "auto"}},
        {"method": {"kind": "kd"}, "train": {"epochs": 4, "compile": "auto"}},
    ]
    found = with_fastest(prepared(tiny, tmp_path, stages=stages), QUIET).recipe
    assert [part.train.compile for part in found.parts] == [True, False]
    assert [stage.train.compile for stage in found.stages] == [True, False]


def test_all_processes_do_as_the_first_has_measured(tiny, tmp_path, compiled, clock):
    class Second(Processes):
        rank, world, leads = 1, 2, False

        def first(self, value):
            return True

    taken = clock()
    second = replace(prepared(tiny, tmp_path), group=Second())
    found = with_fastest(second, QUIET)
    assert found.recipe.train.compile is True
    assert found.group is second.group
    assert taken == []


def test_what_was_not_measured_is_not_compiled(tiny, tmp_path, compiled):
    state = new_state(prepared(tiny, tmp_path))
    state.enter_training()
    state.advance(next(iter(prepared(tiny, tmp_path).source.batches(0, 0))))
    assert compiled == []


@pytest.mark.trains
def test_a_run_that_resumes_is_compiled_as_it_began(tmp_path, compiled, clock, monkeypatch):
    values = {"data": {"name": "digits", "batch_size": 64}, "student": {"arch": "lenet5"}, "method": {"kind": "ce"}}
    recipe = build({**values, "train": {"epochs": 5, "lr": 0.05, "compile": "auto"}}, base=tmp_path)
    times = [2.0] * PLAIN + [1.0] * LATER + [1.0] * FIRST

    clock(*times)
    _, whole = train(recipe, QUIET, out=tmp_path / "whole", latest=False)

    clock(*times)
    log = Run.log_epoch
    monkeypatch.setattr(Run, "log_epoch", lambda *given: (log(*given), signal.raise_signal(signal.SIGINT)))
    with pytest.raises(Interrupted):
        train(recipe, QUIET, out=tmp_path / "stopped", latest=False)
    monkeypatch.setattr(Run, "log_epoch", log)
    compiled.clear()
    taken = clock()
    _, resumed = resume(tmp_path / "stopped", QUIET)

    assert load(resumed.recipe).train.compile is True
    assert taken == []  # nothing is measured again
    assert len(compiled) == 1
    assert resumed.student.read_bytes() == whole.student.read_bytes()
