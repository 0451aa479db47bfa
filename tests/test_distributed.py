"""Several processes, on the CPU through gloo, end with what one of them ends with, and tell what goes wrong."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import together
import torch
from layers import starts, trains
from safetensors.torch import load_file
from shell import ran, refused

from compressor import cli
from compressor.errors import EnvironmentMissing, UsageError
from compressor.files import sha256
from compressor.inputs import prepare
from compressor.machine.devices import choose_device
from compressor.machine.ranks import Place, place
from compressor.progress import Tell
from compressor.recipe import build
from compressor.runs.folder import Run
from compressor.training.distributed import ALONE, Processes, require_equal, require_same_start

ROOT = Path(__file__).resolve().parent.parent
KINDS = ["kd", "ps-kd", "turns", "crd", "norm", "bss"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}


def processes(world: int, command: list[str], **options) -> list[subprocess.Popen[str]]:
    return [
        subprocess.Popen([sys.executable, *(part.format(rank=rank) for part in command)], text=True, **options)
        for rank in range(world)
    ]


@pytest.fixture(scope="module", params=[2, 3])
@starts
def ended(request, tmp_path_factory):
    """What each of two and of three processes ended with, by kind: a list, by rank."""
    world, out = request.param, tmp_path_factory.mktemp("ended")
    command = [str(ROOT / "tests" / "together.py"), "{rank}", str(world), str(out / "store"), str(out), *KINDS]
    running = processes(world, command, env=ENVIRONMENT)
    assert [process.wait(timeout=120) for process in running] == [0] * world
    return {kind: [torch.load(out / f"{kind}-{rank}.pt") for rank in range(world)] for kind in KINDS}


def flat(values, name=""):
    """The tensors of a state, by name."""
    if isinstance(values, torch.Tensor):
        yield name, values
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        yield from flat(value, f"{name}.{key}")


@pytest.mark.parametrize("kind", KINDS)
def test_all_processes_end_with_the_same_bits(ended, kind):
    first, *others = (dict(flat(each["state"])) for each in ended[kind])
    assert others
    for other in others:
        assert other.keys() == first.keys()
        assert [name for name in first if not torch.equal(first[name], other[name])] == []


@pytest.mark.parametrize("kind", ["kd", "ps-kd", "turns"])
def test_several_processes_train_what_one_does_to_rounding(ended, kind):
    alone = together.training(kind)
    expected = dict(flat(alone.state_dict()))
    found = dict(flat(ended[kind][0]["state"]))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=2e-4, atol=2e-5, msg=name)
    for (losses, images), (theirs, their_images) in zip(alone.told, ended[kind][0]["told"], strict=True):
        assert their_images == images == together.IMAGES
        assert theirs == pytest.approx(losses, rel=1e-4)


def test_statistics_of_batchnorm_are_shared_and_learnt_from_each_part(ended):
    states = [each["state"]["student"] for each in ended["norm"]]
    assert all(torch.equal(state["body.1.running_var"], states[0]["body.1.running_var"]) for state in states)
    alone = together.training("norm").student.body[1]
    close = states[0]["body.1.running_mean"] - alone.running_mean
    assert 0 < close.abs().max() < 0.1  # a mean over parts is one over the whole; what each trains on is not


# What one process knows of the others


class Told(Processes):
    """The first of processes whose values are given."""

    def __init__(self, *others):
        super().__init__(0, 1 + len(others))
        object.__setattr__(self, "others", others)

    def each(self, value):
        return [value, *self.others]


def test_processes_that_were_started_for_something_else_are_told_what_differs():
    require_same_start(Told({"seed": 0, "train": {"lr": 1}}), {"seed": 0, "train": {"lr": 1}})
    with pytest.raises(UsageError, match=r"process 3 of 3 was .* another training than the first: seed, train differ"):
        require_same_start(Told({"seed": 0, "train": 1}, {"seed": 1, "train": 2}), {"seed": 0, "train": 1})


def test_an_objective_that_remembers_its_part_alone_is_named():
    memory = torch.arange(6.0).reshape(2, 3)
    require_equal(Told([int(memory.view(torch.uint8).sum())]), {"objective.past": memory})
    with pytest.raises(ValueError, match=r"objective\.past is not the same in process 2 .* Setting\.gather"):
        require_equal(Told([0]), {"objective.past": memory})


def test_means_are_over_all_processes_and_what_one_lacks_counts_as_nothing():
    assert Told({"kd": 3.0, "bss": 1.0}).means({"kd": 1.0}) == {"kd": 2.0, "bss": 0.5}
    assert ALONE.means({"kd": 1.0}) == {"kd": 1.0}


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({}, (0, 1, 0)),
        ({"WORLD_SIZE": "4"}, (0, 1, 0)),  # as some clusters set for all their jobs
        ({"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}, (3, 4, 1)),
        ({"WORLD_SIZE": "4", "RANK": "4"}, None),
        ({"WORLD_SIZE": "two", "RANK": "0"}, None),
    ],
)
def test_the_environment_says_which_process_this_is(monkeypatch, said, found):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    if found is None:
        with pytest.raises(UsageError, match=f"names no process: WORLD_SIZE={said['WORLD_SIZE']}"):
            place()
    else:
        assert place() == Place(*found)


def test_only_the_first_process_talks(monkeypatch, capsys):
    for rank in ("0", "1"):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", rank)
        Tell()(f"from {rank}")
    assert capsys.readouterr().err == "from 0\n"


@pytest.mark.parametrize("code", [0, None, 2])
def test_a_command_of_several_processes_ends_before_python_takes_itself_apart(monkeypatch, code):
    class Ended(BaseException):
        pass

    def end(code):
        raise Ended(code)

    monkeypatch.setattr(cli.os, "_exit", end)
    monkeypatch.setattr(cli, "app", lambda: sys.exit(code))
    with pytest.raises(SystemExit):
        cli.main()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(Ended) as ended:
        cli.main()
    assert ended.value.args == (code or 0,)


def test_what_one_process_does_is_refused_to_several(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UsageError, match="compress methods is for one process, and several were started"):
        cli.app(["methods"], standalone_mode=False)


def test_each_process_has_a_device_of_its_own(monkeypatch):
    with pytest.raises(UsageError, match="several processes cannot train on cuda:1 alone"):
        choose_device("cuda:1", local=0)
    assert choose_device("cpu", local=1) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [choose_device("auto", local=local).index for local in (0, 1)] == [0, 1]
    with pytest.raises(EnvironmentMissing, match="cuda:2 is not here: torch sees 2"):
        choose_device("cuda", local=2)


def test_more_devices_than_there_are_and_steps_too_small_to_share_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    digits = ["train", "--arch", "lenet5", "--data", "digits", "--device", "cpu"]
    refused([*digits, "--devices", "999"], 3, r"--devices 999 is more than the \d+ cores that are here")
    refused([*digits, "--devices", "0"], 2, "--devices")
    recipe = build(
        {"student": {"arch": "lenet5"}, "method": {"kind": "ce"}, "data": {"name": "digits", "batch_size": 5}},
        base=tmp_path,
    )
    with pytest.raises(UsageError, match="a step of 5 images is too small for 3 processes"):
        prepare(recipe, Tell(quiet=True), group=Processes(0, 3))


# Whole commands


TRAIN = ["-m", "compressor", "train", "--arch", "lenet5", "--data", "digits", "--device", "cpu", "--lr", "0.01"]


def started(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *TRAIN, *arguments],
        cwd=folder,
        env={**ENVIRONMENT, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def pair(folder: Path, first: list[str], second: list[str], **variables: str) -> list[subprocess.Popen[str]]:
    """Two processes as torchrun on two machines starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **variables}
    return [started(folder, *each, **shared, RANK=str(rank)) for rank, each in enumerate((first, second))]


def wait_for_epoch(run: Path, process: subprocess.Popen[str]) -> None:
    while not (run / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def rank_of(launcher: subprocess.Popen[str], rank: int) -> int:
    """The number of a process that `--devices` has started."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    return next(
        int(each)
        for each in children
        if f"RANK={rank}".encode() in Path(f"/proc/{each}/environ").read_bytes().split(b"\0")
    )


def assert_same(run: Path, other: Path) -> None:
    """Two students are the same, to what rounding has become of in 240 steps."""
    found, expected = (load_file(each / "student" / "student.safetensors") for each in (run, other))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-2, atol=1e-3, msg=name)


@pytest.fixture(scope="module")
@trains
def alone(tmp_path_factory):
    """What one process trains in six epochs."""
    run = tmp_path_factory.mktemp("alone") / "run"
    ran([*TRAIN[2:], "--epochs", "6", "--out", str(run)])
    return run


@pytest.mark.trains
@pytest.mark.starts
@pytest.mark.heavy
def test_a_killed_process_ends_the_job_with_a_sentence_and_one_process_goes_on(alone, tmp_path, monkeypatch):
    job = started(tmp_path, "--epochs", "6", "--out", "run", "--devices", "2")
    wait_for_epoch(tmp_path / "run", job)
    os.kill(rank_of(job, 1), signal.SIGKILL)
    _, said = job.communicate(timeout=60)
    assert job.returncode == 130
    (sentence,) = re.findall("^error: (.*)", said, re.MULTILINE)
    assert re.fullmatch(r"another process of this training is gone; the state after epoch \d is saved", sentence)
    assert "hint: compress train --resume run" in said
    assert "Traceback" not in said

    again = [sys.executable, "-m", "compressor", "train", "--resume", "run", "--devices", "2", "--json"]
    done = subprocess.run(again, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["student"]["sha256"] == sha256(tmp_path / "run" / "student" / "student.safetensors")
    assert_same(tmp_path / "run", alone)


@pytest.mark.trains
@pytest.mark.starts
@pytest.mark.heavy
def test_a_stopped_job_saves_its_state_and_one_process_goes_on(alone, tmp_path, monkeypatch):
    job = started(tmp_path, "--epochs", "6", "--out", "run", "--devices", "2")
    wait_for_epoch(tmp_path / "run", job)
    job.send_signal(signal.SIGTERM)
    _, said = job.communicate(timeout=60)
    assert job.returncode == 130
    assert len(re.findall("^error: interrupted in epoch .* of 6; the state is saved", said, re.MULTILINE)) == 1

    monkeypatch.chdir(tmp_path)
    ran(["train", "--resume", "run"])
    assert_same(tmp_path / "run", alone)


@pytest.mark.starts
@pytest.mark.heavy
def test_a_process_that_hangs_is_waited_for_so_long_and_not_longer(tmp_path):
    first, second = pair(tmp_path, ["--epochs", "60", "--out", "run"], ["--epochs", "60"], COMPRESS_TIMEOUT_S="3")
    wait_for_epoch(tmp_path / "run", first)
    second.send_signal(signal.SIGSTOP)
    _, said = first.communicate(timeout=60)
    second.kill()
    second.communicate()
    assert first.returncode == 130
    assert re.search("error: another process of this training did not answer in time; the state after epoch", said)


@pytest.mark.starts
@pytest.mark.heavy
def test_processes_with_different_recipes_end_with_one_sentence(tmp_path):
    pair_ = pair(tmp_path, ["--out", "run"], ["--seed", "1"])
    said = "".join(process.communicate(timeout=60)[1] for process in pair_)
    assert [process.returncode for process in pair_] == [2, 2]
    assert len(re.findall("^error: ", said, re.MULTILINE)) == 1
    assert "process 2 of 2 was started for another training than the first: seed differs" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.starts
@pytest.mark.heavy
def test_a_port_in_use_is_said(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        job = started(tmp_path, WORLD_SIZE="2", RANK="0", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        _, said = job.communicate(timeout=60)
    assert job.returncode == 3
    assert f"error: the port of 127.0.0.1:{port} is in use" in said


@pytest.mark.trains
@pytest.mark.starts
@pytest.mark.heavy
def test_torchrun_trains_what_one_process_does(alone, tmp_path):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *torchrun, *TRAIN, "--epochs", "6", "--out", "run"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("network   lenet5") == 1
    assert len(Run(tmp_path / "run").epochs()) == 6
    assert_same(tmp_path / "run", alone)
    then, now = Run(alone).epochs()[-1], Run(tmp_path / "run").epochs()[-1]
    assert now["losses"]["ce"] == pytest.approx(then["losses"]["ce"], rel=1e-3)
    assert now["validation_top1"] == pytest.approx(then["validation_top1"], abs=1)
