"""`--on ray`: what is tried again and what is not, how it stops, what is refused; a comparison on a real cluster."""

import json
import os
import re
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from layers import starts
from shell import COMPARED, ran, refused, typed

from compressor.errors import EnvironmentMissing, UsageError
from compressor.machine import cluster
from compressor.machine.cluster import TRIES, Ray
from compressor.machine.workers import SideBySide, Task
from compressor.pipeline.compare import at_a_time, place_of, places
from compressor.runs.folder import Run
from compressor.runs.lock import free, working

RECIPE = COMPARED + "train: {epochs: 12, lr: 0.05, schedule: {kind: constant}}"
FOLDER = Path("runs/mine-compare")
COMPARE = ["compare", "mine.yaml", "--quiet", "--methods", "ce,kd", "--seeds", "1"]


class Lost(Exception):
    """What Ray raises for a task whose worker is gone."""


class Cancelled(Exception):
    """What Ray raises for a task that was cancelled."""


class FakeRay:
    """A cluster that does nothing: each task ends, when it is next waited for, as its list of endings says."""

    exceptions = SimpleNamespace(TaskCancelledError=Cancelled, RayTaskError=KeyError, RayError=Lost)

    def __init__(self, endings, resources):
        self.endings, self.resources = endings, resources
        self.begun, self.most, self.open, self.cancelled, self.asked = [], 0, {}, [], None
        self.joined, self.left = None, False

    def is_initialized(self):
        return False

    def init(self, **options):
        self.joined = options
        signal.signal(signal.SIGTERM, lambda *_: None)

    def shutdown(self):
        self.left = True

    def nodes(self):
        return [{"Alive": True, "Resources": self.resources}, {"Alive": False, "Resources": {"CPU": 99.0, "GPU": 9.0}}]

    def remote(self, **asked):
        self.asked = asked
        return lambda function: SimpleNamespace(remote=self.submit)

    def submit(self, task, *_):
        self.begun.append(task)
        reference = object()
        self.open[reference] = task
        self.most = max(self.most, len(self.open))
        return reference

    def wait(self, references, timeout):
        return references[:1], references[1:]

    def get(self, reference):
        task = self.open.pop(reference)
        if reference in self.cancelled:
            raise Cancelled
        ending = self.endings[task].pop(0)
        if isinstance(ending, Exception):
            raise ending
        return ending

    def cancel(self, reference, force=False):
        self.cancelled.append(reference)


@pytest.fixture
def fake(monkeypatch):
    def make(endings, **resources):
        ray = FakeRay(endings, {"CPU": 4.0, **resources})
        monkeypatch.setitem(sys.modules, "ray", ray)
        monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
        return ray

    return make


def task(name):
    return Task((name,), Path("run.log"))


def workers(**changed):
    return Ray(**{"address": None, "jobs": None, "threads": 1, "gpus": 0.0, "folder": Path("/here"), **changed})


# Tasks in, endings out


def test_what_is_lost_is_tried_again_and_what_fails_by_itself_is_not(fake):
    one, two, three, told = map(task, ("one", "two", "three", "told"))
    ray = fake(
        {
            one: [Lost("the worker died"), (-9, "ended by SIGKILL"), (0, "")],
            two: [(5, "the loss is NaN")],
            three: [KeyError("ModuleNotFoundError: no compressor")],
            told: [(130, "interrupted"), (0, "")],  # a machine that is taken away tells its processes to stop
        }
    )

    found = {each.task: (each.code, each.reason) for each in workers().run([one, two, three, told])}

    assert found[one] == found[told] == (0, "")
    assert found[two] == (5, "the loss is NaN")
    assert found[three][0] == 1
    assert "no compressor" in found[three][1]
    assert [ray.begun.count(each) for each in (one, two, three, told)] == [3, 1, 1, 2]
    assert ray.asked == {"num_cpus": 1, "num_gpus": 0.0, "max_retries": 0}


def test_what_is_lost_again_and_again_fails(fake):
    one = task("one")
    ray = fake({one: [Lost("the machine is gone\nmore")] * (TRIES + 1)})

    (ended,) = workers().run([one])

    assert len(ray.begun) == TRIES
    assert (ended.code, ended.reason) == (-signal.SIGKILL, "its Ray worker was lost: the machine is gone")
    assert not ended.interrupted


@pytest.mark.parametrize(("jobs", "most"), [(None, 5), (2, 2)])
def test_no_more_tasks_are_handed_out_than_asked(fake, jobs, most):
    tasks = [task(str(number)) for number in range(5)]
    ray = fake({each: [(0, "")] for each in tasks})

    assert {each.task for each in workers(jobs=jobs).run(tasks)} == set(tasks)
    assert ray.most == most


def test_a_signal_cancels_what_runs_begins_nothing_more_and_tries_nothing_again(fake):
    tasks = [task(str(number)) for number in range(4)]
    ray = fake({each: [(0, "")] for each in tasks})
    ticks = iter([lambda: None, lambda: os.kill(os.getpid(), signal.SIGINT)])

    found = list(workers(jobs=2).run(tasks, lambda: next(ticks, lambda: None)()))

    assert [each.code for each in found] == [0, 0, 130]
    assert found[-1].interrupted
    assert len(ray.begun) == 3
    assert ray.left


def test_a_local_cluster_sends_nothing_home_and_leaves_signals_alone(fake, monkeypatch):
    ray, before = fake({}), signal.getsignal(signal.SIGTERM)

    with cluster.joined(None) as found:
        assert found is ray
        assert signal.getsignal(signal.SIGTERM) == before
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"

    assert ray.joined["address"] == "local"  # not what RAY_ADDRESS says
    assert not ray.joined["include_dashboard"]
    assert ray.left


def test_nothing_to_do_needs_no_cluster(fake):
    ray = fake({})
    assert list(workers().run([])) == []
    assert ray.joined is None


# What is refused


@pytest.mark.parametrize(
    ("asked", "there", "words"),
    [
        ({"threads": 8}, {}, "the 8 CPUs of a training"),
        ({"gpus": 1.0}, {}, "the 1 CPUs and 1 GPUs"),
        ({"gpus": 1.0}, {"GPU": 0.5}, "the 1 CPUs and 1 GPUs"),
    ],
)
def test_a_training_that_no_machine_has_room_for_does_not_wait_for_ever(fake, asked, there, words):
    ray = fake({}, **there)
    with pytest.raises(EnvironmentMissing, match=words):
        list(workers(**asked).run([task("one")]))
    assert ray.begun == []


def test_a_machine_that_does_not_see_the_folder_says_so(tmp_path):
    seen = Task(("recipes", "ls"), Path("cell/run.log"))

    code, reason = cluster._run(seen, tmp_path / "elsewhere", 1, 0.0)
    assert code == 3
    assert re.search(r"does not see .*elsewhere: the machines of a Ray cluster must share that folder", reason)
    code, reason = cluster._run(seen, tmp_path, 1, 0.0)
    assert code == 3
    assert "/cell: the machines" in reason


def test_without_ray_the_line_to_type_is_said(monkeypatch):
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: None)
    refused([*COMPARE[:1], "digits-bss", "--on", "ray"], 3, "--on ray needs the package ray", r"compressor\[ray\]")


@pytest.mark.parametrize("address", ["somewhere", "ray://head:10001", ":6379", "head:ray", "head:65536", ""])
def test_what_is_no_address_is_refused(monkeypatch, address):
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: name)
    command = ["compare", "digits-bss", "--on", "ray", "--address", address]
    refused(command, 2, "is no address of a Ray cluster", "--address HOST:6379")


def test_an_address_where_nobody_answers_is_one_sentence(monkeypatch):
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: name)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = ["compare", "digits-bss", "--on", "ray", "--address", address]
        refused(command, 3, f"no Ray cluster at {address} that this machine can join: connection refused", "ray start")


@pytest.mark.starts
@pytest.mark.parametrize(
    ("joining", "reason"),
    [
        ("import time; time.sleep(60)", "no answer within 0.5 s"),
        ("import sys; print('noise'); sys.exit('Version mismatch: 2.40 and 2.60')", "Version mismatch: 2.40 and 2.60"),
        ("import os; os.abort()", "exit code -6"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_one_sentence(monkeypatch, capfd, joining, reason):
    monkeypatch.setattr(cluster, "_JOINING", joining)
    monkeypatch.setattr(cluster, "_JOIN_S", 0.5 if "sleep" in joining else 60.0)
    with pytest.raises(EnvironmentMissing, match=rf"no Ray cluster at head:6379 .*: {re.escape(reason)}"):
        list(workers(address="head:6379").run([task("one")]))
    assert capfd.readouterr() == ("", "")


def test_what_only_a_cluster_has_is_refused_without_one():
    for asked in ({"address": "auto"}, {"cpus": 2}, {"gpus": 0.0}):
        with pytest.raises(UsageError, match="is for a Ray cluster"):
            place_of("local", **asked)
    with pytest.raises(UsageError, match="a part of one GPU or several whole ones"):
        place_of("ray", gpus=1.5)


# What a training is given


def prepared(kind, device="auto"):
    return SimpleNamespace(device=torch.device(kind), recipe=SimpleNamespace(device=device))


def test_a_training_has_a_gpu_where_it_trains_on_cuda_and_as_many_cpus_as_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")

    def given(kind, **asked):
        found = place_of("ray", **asked).workers(prepared(kind), {})
        return found.threads, found.gpus, found.jobs, found.address

    assert given("cpu") == (3, 0.0, None, None)
    assert given("cuda") == (3, 1.0, None, None)
    assert given("cuda", cpus=2, gpus=0.25, jobs=5, address="auto") == (2, 0.25, 5, "auto")
    assert given("cpu", gpus=1.0) == (3, 1.0, None, None)  # the machine of the command needs none
    with pytest.raises(UsageError, match="Ray chooses the GPU of each training, and device is cuda:1"):
        place_of("ray").workers(prepared("cuda", "cuda:1"), {})


def test_the_local_way_stays_what_it_was(monkeypatch):
    monkeypatch.setattr(places, "shares", lambda prepared, recipes, jobs: (jobs or 7, 2))
    assert place_of("local").workers(prepared("cpu"), {}) == SideBySide(7, 2)
    assert place_of("local", jobs=3).workers(prepared("cpu"), {}) == SideBySide(3, 2)
    assert [at_a_time(jobs) for jobs in (2, None)] == ["2 at a time", "as many at a time as there is room for"]


def test_a_cell_waits_for_the_process_that_a_lost_worker_left(tmp_path):
    with working(tmp_path):
        assert not free(tmp_path, 0.0)
    held, leave = threading.Event(), threading.Event()

    def earlier():
        with working(tmp_path):
            held.set()
            leave.wait()

    thread = threading.Thread(target=earlier)
    thread.start()
    held.wait()
    threading.Timer(0.2, leave.set).start()
    assert free(tmp_path, 60.0)
    thread.join()


# A real cluster


@pytest.fixture(scope="module")
@starts
def ray():
    """A local cluster, which commands typed in this process use and leave."""
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # a token would be written into the home folder
        patch.setenv("OMP_NUM_THREADS", "1")
        with cluster.joined(None) as module:
            yield module


@pytest.fixture
def lab(taught, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "mine.yaml").write_text(RECIPE.replace("checkpoint: teacher", f"checkpoint: {taught}"))
    return tmp_path


def worker_of(run):
    """The process that waits for the training of a run, None while there is none."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"compare-cell" in words and str(run.folder).encode() in words:
                return int(re.search(r"PPid:\t(\d+)", (process / "status").read_text())[1])
        except OSError:  # it has just ended
            continue
    return None


@pytest.mark.slow  # a real cluster needs the machine to itself
@pytest.mark.starts
@pytest.mark.skipif(sys.platform != "linux", reason="finds the worker in /proc")
def test_a_killed_workers_cell_is_tried_again_and_what_comes_out_is_as_from_this_machine(lab, ray):
    victim = Run(FOLDER / "lenet5-half-kd-s0")

    def kill():
        while not victim.metrics.exists() or (worker := worker_of(victim)) is None:
            time.sleep(0.02)
        os.kill(worker, signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    shown = json.loads(ran([*COMPARE, "--on", "ray", "--json"]).out)

    thread.join(timeout=1)
    assert not thread.is_alive()
    assert victim.log.read_text().count("resuming after") == 2
    assert [row["epoch"] for row in victim.epochs()] == list(range(1, 13))
    assert [cell["name"] for cell in shown["cells"]] == ["lenet5-half-ce-s0", "lenet5-half-kd-s0"]
    again = json.loads(ran([*COMPARE, "--jobs", "1", "--json"]).out)  # here, and nothing is left to do
    assert {**again, "notes": []} == {**shown, "notes": []}


@pytest.mark.slow  # a real cluster needs the machine to itself
@pytest.mark.starts
def test_an_interrupt_reaches_the_trainings_on_a_cluster_which_save(lab, ray):
    runs = [Run(FOLDER / f"lenet5-half-{method}-s0") for method in ("ce", "kd")]

    def ctrl_c():
        while not all(run.metrics.exists() for run in runs):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=ctrl_c, daemon=True).start()
    done = typed([*COMPARE, "--on", "ray", "--epochs", "400"])

    assert done.code == 130, done.err
    assert "2 of 2 trainings unfinished; their states are saved" in done.err
    assert all(run.last.exists() and "interrupted in epoch" in run.log.read_text() for run in runs)
