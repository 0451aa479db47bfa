"""Trackers: what they are told, that they cannot cost a training, and what a real MLflow server has in the end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from importlib.util import find_spec
from pathlib import Path

import finished
import numpy as np
import onnx
import pytest
from layers import starts
from onnx import TensorProto, helper
from shell import QUICK, ran, refused, typed

from compressor import tracking as module
from compressor.errors import EnvironmentMissing, Interrupted, UsageError
from compressor.progress import Tell
from compressor.recipe import MLflow, build
from compressor.runs.folder import Run
from compressor.tracking import Trackers, require, tracking, values

TRAIN = ["train", "--arch", "lenet5-half", "--data", "digits", "--epochs", "2", "--name", "oak", *QUICK, "--quiet"]
STARTS_WITHIN_S = 180
needs_mlflow = pytest.mark.skipif(
    find_spec("mlflow") is None, reason="MLflow is not installed: pip install 'compressor[mlflow]'"
)
needs_tensorboard = pytest.mark.skipif(
    find_spec("tensorboard") is None, reason="TensorBoard is not installed: pip install 'compressor[tensorboard]'"
)


def recipe(**changes):
    return build(
        {"student": {"arch": "lenet5"}, "method": {"kind": "ce"}, "data": {"name": "digits"}} | changes, base=Path.cwd()
    )


def row(epoch, **changes):
    return {"epoch": epoch, "losses": {"ce": 2.5 / epoch}, "lr": 0.1, "validation_top1": None, "seconds": 1.0} | {
        "images_per_s": 100.0 * epoch,
        **changes,
    }


@pytest.fixture
def told():
    """What a user was told."""

    class Listening(Tell):
        def __init__(self):
            super().__init__(quiet=True)
            self.sentences = []

        def __call__(self, sentence):
            self.sentences.append(sentence)

    return Listening()


class Noting:
    """A tracker that notes what it is told, and fails when it is told to."""

    title = "Noting"

    def __init__(self):
        self.heard, self.fails = [], False

    def _hear(self, what):
        if self.fails:
            raise ConnectionError("the line is dead\nand more")
        self.heard.append(what)

    def epoch(self, row):
        self._hear(row["epoch"])

    def result(self, result):
        self._hear(result.name)

    def close(self, status):
        self._hear(status)


# The recipe.


@pytest.mark.parametrize(
    ("value", "words", "hint"),
    [
        ("[{kind: wandb}]", "tracking.0.kind", ""),
        (
            "[{kind: mlflow, uri: 'http://ann:secret@127.0.0.1:5000'}]",
            "tracking.0.uri.*must not hold",
            "MLFLOW_TRACKING_USERNAME",
        ),
        ("[{kind: mlflow, file: a.onnx}]", "tracking.0.file: is the file to register, and register names no model", ""),
        ("[{kind: mlflow, register: a, file: a.plan}]", "tracking.0.file", ""),
        ("[{kind: tensorboard}, {kind: tensorboard}]", "tracking: lists tensorboard twice", ""),
        ("[{kind: mlflow, register: 'a/b'}]", "tracking.0.register", ""),
    ],
)
def test_a_tracking_that_makes_no_sense_is_refused(value, words, hint):
    refused(["run", "digits-teacher", "--dry-run", "--set", f"tracking={value}"], 2, words, hint)


@pytest.mark.parametrize(
    "uri",
    [
        "http://ann:s3cr3t@127.0.0.1:5000",
        "http:ann:s3cr3t@127.0.0.1",
        "http://s3cr3t@127.0.0.1",
        "http://127.0.0.1/?password=s3cr3t",
        "postgresql://host/db?sslmode=x&Password=s3cr3t",
        "http://127.0.0.1/#access_token=s3cr3t",
    ],
)
def test_an_address_with_a_secret_is_refused_without_showing_it(uri):
    for section in (f"tracking=[{{kind: mlflow, uri: '{uri}'}}]", f'tracking=[{{kind: mlflow, uri: "{uri}"}}]'):
        done = typed(["run", "digits-teacher", "--dry-run", "--set", section])

        assert done.code == 2
        assert done.err.startswith("error: --set tracking=...: tracking.0.uri: must not hold a user or a password\n")
        assert "s3cr3t" not in done.out + done.err


def test_an_address_without_a_secret_is_taken():
    for uri in (
        "http://127.0.0.1:5000/a@b",
        "sqlite:///runs/store.db",
        "http://h/?workspace=a",
        "databricks://profile",
    ):
        assert MLflow(uri=uri).uri == uri


def test_a_model_is_registered_only_where_an_onnx_file_is_exported():
    asked = ["run", "digits-teacher", "--dry-run", "--set", "tracking=[{kind: mlflow, register: oak}]"]

    assert "register: oak" in ran(asked).out
    refused(
        [*asked, "--set", "export=[{format: openvino}]"], 2, "tracking.0.register: needs an export of the format onnx"
    )


def test_tracking_is_nothing_that_weights_depend_on():
    from compressor.pipeline.identity import training_inputs

    assert training_inputs(recipe()) == training_inputs(recipe(tracking=[{"kind": "tensorboard"}]))


# What is told.


def test_parameters_are_the_recipe_by_dotted_names():
    found = values.parameters(recipe(tracking=[{"kind": "mlflow", "uri": "http://x"}]))

    assert found["train.lr"] == "0.1"
    assert found["student.arch"] == "lenet5"
    assert found["method.kind"] == "ce"
    assert found["export.0.format"] == "onnx"
    assert found["export.0.batch"] == "[1, 8, 32]"
    assert found["validate.boundary_samples"] == "256"
    assert not any(name.startswith("tracking") for name in found)
    assert "student.init" not in found


def test_an_epoch_is_its_loss_terms_and_what_was_measured():
    assert values.of_epoch(row(2, losses={"ce": 0.5, "kd": 0.25})) == {
        "loss/ce": 0.5,
        "loss/kd": 0.25,
        "lr": 0.1,
        "images_per_s": 200.0,
        "seconds": 1.0,
    }
    assert values.of_epoch(row(2, validation_top1=91))["validation_top1"] == 91.0


def test_a_result_is_each_files_measures():
    found = values.of_result(finished.result())

    assert found["teacher/top1"] == 93.5
    assert found["student/top1"] == 85.75
    assert found["student/accuracy_drop"] == 7.75
    assert found["student.int8.onnx/top1"] == 84.5
    assert found["student/p50_ms_b1"] == 0.5
    assert found["student/p99_ms_b1"] == 3.5
    assert found["student/images_per_s_b1"] == 1234.4
    assert found["student.fp16.plan/size_bytes"] == 2_345_678
    assert "student.fp16.plan/top1" not in found
    assert not any(name.startswith("teacher") for name in values.of_result(finished.result(teacher=None)))


# What fails.


def test_a_tracker_that_fails_is_warned_of_once_and_the_others_go_on(told):
    broken, fine = Noting(), Noting()
    trackers = Trackers([broken, fine], told)
    trackers.epoch(row(1))
    broken.fails = True
    trackers.epoch(row(2))
    trackers.epoch(row(3))
    broken.fails = False
    trackers.result(finished.result())
    trackers.close("FINISHED")

    assert told.sentences == ["warning: Noting did not take epoch 2, and the run goes on: the line is dead"]
    assert fine.heard == [1, 2, 3, "oak", "FINISHED"]
    assert broken.heard == [1, "oak", "FINISHED"]


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "FINISHED"), (Interrupted("stop"), "KILLED"), (KeyboardInterrupt(), "KILLED"), (ValueError(), "FAILED")],
)
def test_trackers_hear_how_the_run_ended(monkeypatch, tmp_path, told, error, status):
    tracker = Noting()
    monkeypatch.setattr(module, "_open", lambda *_: tracker)

    def work():
        with tracking(recipe(tracking=[{"kind": "tensorboard"}]), Run(tmp_path), told):
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(type(error)):
            work()
    assert tracker.heard == [status]


def test_passwords_in_addresses_are_never_told():
    error = OSError("no answer from https://ann:secret@host/a@b, nor from http://token@host:80\nmore")

    assert module.reason_of(error) == "no answer from https://host/a@b, nor from http://host:80"
    assert module.without_secrets("at http://ann:x@h/db?password=x#y, sorry") == "at http://h/db sorry"


def test_a_tracker_that_cannot_be_opened_is_left_out(monkeypatch, tmp_path, told):
    def fail(*_):
        raise ConnectionError

    monkeypatch.setattr(module, "_open", fail)
    with tracking(recipe(tracking=[{"kind": "mlflow"}]), Run(tmp_path), told) as trackers:
        trackers.epoch(row(1))

    assert told.sentences == ["warning: mlflow is left out, and the run goes on: ConnectionError"]


@pytest.mark.parametrize(("kind", "extra"), [("tensorboard", "tensorboard"), ("mlflow", "mlflow")])
def test_a_package_that_is_not_installed_is_refused_before_training(monkeypatch, kind, extra):
    from compressor.tracking import mlflow, tensorboard

    monkeypatch.setattr({"mlflow": mlflow, "tensorboard": tensorboard}[kind], "find_spec", lambda name: None)
    with pytest.raises(EnvironmentMissing, match="is not installed") as refusal:
        require(recipe(tracking=[{"kind": kind}]))

    assert refusal.value.hint == f"pip install 'compressor[{extra}]'"


@needs_mlflow
def test_mlflow_without_a_server_is_refused(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UsageError, match="names no server"):
        require(recipe(tracking=[{"kind": "mlflow"}]))


@pytest.fixture
def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


@pytest.mark.starts
@needs_mlflow
def test_a_server_that_is_down_is_refused_before_training_and_no_password_is_told(monkeypatch, tmp_path, free_port):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:secret@127.0.0.1:{free_port}")
    done = typed([*TRAIN, "--set", "tracking=[{kind: mlflow}]"])

    assert done.code == 3
    assert f"error: the MLflow server http://127.0.0.1:{free_port} cannot be used: " in done.err
    assert "secret" not in done.err
    assert "--set 'tracking=[]'" in done.err
    assert not (tmp_path / "runs").exists()


# TensorBoard.


def scalars(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    found = {name: [(each.step, each.value) for each in events.Scalars(name)] for name in events.Tags()["scalars"]}
    text = events.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0].decode()
    return found, text


@pytest.mark.trains
@needs_tensorboard
def test_tensorboard_reads_the_curves_of_a_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = ran([*TRAIN, "--set", "tracking=[{kind: tensorboard}]"])
    run = Run(tmp_path / "runs" / "oak-1")
    found, text = scalars(run.folder / "tensorboard")

    rows = run.epochs()
    assert len(rows) == 2
    for name in ("lr", "validation_top1", "images_per_s"):
        assert found[name] == [(each["epoch"], pytest.approx(each[name])) for each in rows]
    assert found["loss/ce"] == [(each["epoch"], pytest.approx(each["losses"]["ce"])) for each in rows]
    result = json.loads((run.folder / "result.json").read_text())
    assert found["result/student/top1"] == [(2, pytest.approx(result["student"]["top1"]))]
    assert "| train.lr | 0.05 |" in text
    assert done.err == ""
    assert "are as the manifest says" in ran(["verify", "runs/oak-1"]).err


@pytest.mark.heavy
@needs_tensorboard
def test_tensorboard_hides_what_a_resumed_run_does_again(tmp_path, told):
    run = finished.folder(tmp_path / "run")
    wanted = recipe(tracking=[{"kind": "tensorboard", "folder": tmp_path / "all"}])
    for first in (1, 2):  # the second process finds one finished epoch, and does the second one again
        with tracking(wanted, run, told) as trackers:
            for epoch in range(first, 3):
                trackers.epoch(row(epoch, lr=0.1 * first))
        run.metrics.write_text(json.dumps(row(1)) + "\n")
        time.sleep(1.1)  # event files are named by the second
    found, _ = scalars(tmp_path / "all" / "run")

    assert found["lr"] == [(1, pytest.approx(0.1)), (2, pytest.approx(0.2))]
    assert told.sentences == []


# A real MLflow server.


@pytest.fixture(scope="module")
@starts
def server(tmp_path_factory):
    """The address of an MLflow server on loopback, with its store in SQLite."""
    if find_spec("mlflow") is None:
        pytest.skip("MLflow is not installed: pip install 'compressor[mlflow]'")
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder / 'store.db'}", "--artifacts-destination", str(folder / "files")),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=log,
            stderr=log,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
    try:
        began = time.monotonic()
        while not answers(f"{address}/health"):
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            assert time.monotonic() - began < STARTS_WITHIN_S, "the MLflow server does not start"
            time.sleep(0.3)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its store goes with it
        process.wait()


def answers(address):
    try:
        with urllib.request.urlopen(address, timeout=2) as response:
            return response.status == 200
    except OSError:
        return False


@pytest.fixture
def client(server):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from compressor.tracking.mlflow import _client

        return _client(MLflow(uri=server))


def runs_of(client, experiment):
    found = client.get_experiment_by_name(experiment)
    return [] if found is None else client.search_runs([found.experiment_id])


def graph(path, *, pixels="float32"):
    """An ONNX file that takes images and returns three logits."""
    element, shape = (
        (TensorProto.FLOAT, ["batch", 1, 8, 8]) if pixels == "float32" else (TensorProto.UINT8, ["batch", 8, 8, 1])
    )
    nodes = [helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT)]
    nodes += [
        helper.make_node("Flatten", ["floats"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    weight = onnx.numpy_helper.from_array(np.ones((64, 3), np.float32), "weight")
    given = helper.make_tensor_value_info("images", element, shape)
    returned = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])
    made = helper.make_graph(nodes, "g", [given], [returned], [weight])
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


@pytest.mark.slow
def test_a_whole_run_is_on_the_server(tmp_path, monkeypatch, server, client):
    monkeypatch.chdir(tmp_path)
    section = f"tracking=[{{kind: mlflow, uri: '{server}', experiment: whole, register: whole-oak}}]"
    plan = ["--epochs", "2", "--name", "oak", *QUICK[6:], "--set", section, "--set", "train.lr=0.05"]
    done = ran(["run", "digits-teacher", *plan, "--student", "lenet5-half"])
    assert "MLflow" not in done.err
    assert "View run" not in done.out + done.err
    run = Run(tmp_path / "runs" / "oak-1")

    (known,) = runs_of(client, "whole")
    assert (known.info.run_name, known.info.status) == ("oak", "FINISHED")
    assert known.data.params["train.lr"] == "0.05"
    assert known.data.params["student.arch"] == "lenet5-half"
    rows = run.epochs()
    history = client.get_metric_history(known.info.run_id, "loss/ce")
    assert [(each.step, each.value) for each in history] == [(each["epoch"], each["losses"]["ce"]) for each in rows]
    result = json.loads((run.folder / "result.json").read_text())
    assert known.data.metrics["student/top1"] == result["student"]["top1"]
    artifact = result["artifacts"][0]
    assert known.data.metrics["student.fp32.onnx/top1"] == artifact["top1"]
    assert known.data.metrics["student.fp32.onnx/p50_ms_b1"] == artifact["latency_ms"]["1"]["p50"]
    stored = {each.path for each in client.list_artifacts(known.info.run_id)}
    assert stored >= {"recipe.resolved.yaml", "result.json", "manifest.json", "student", "export", "report", "model"}
    copy = client.download_artifacts(known.info.run_id, artifact["path"], str(tmp_path))
    assert Path(copy).read_bytes() == (run.folder / artifact["path"]).read_bytes()

    (version,) = client.search_model_versions("name='whole-oak'")
    assert version.run_id == known.info.run_id
    assert version.tags["compress.sha256"] == artifact["sha256"]

    ran(["run", "digits-teacher", *plan, "--student", "lenet5-half", "--quiet"])  # nothing changed
    assert len(runs_of(client, "whole")) == 1
    assert len(client.search_model_versions("name='whole-oak'")) == 1
    assert len(client.get_metric_history(known.info.run_id, "loss/ce")) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("passed", "gates", "status", "verdict", "registered"),
    [
        (False, True, "FAILED", "broken", False),
        (None, True, "FINISHED", "open", False),
        (True, True, "FINISHED", "held", True),
        (None, False, "FINISHED", "none", True),
    ],
)
def test_a_model_is_registered_only_where_the_gates_hold(
    tmp_path, told, server, client, passed, gates, status, verdict, registered
):
    run = finished.folder(tmp_path / "run")
    graph(run.folder / "export/student.int8.onnx")
    name = f"judged-{verdict}"
    section = {"kind": "mlflow", "uri": server, "experiment": name, "register": name, "file": "student.int8.onnx"}
    known = finished.result()
    result = finished.result(passed=passed, gates=known.gates if gates else ())
    for _ in range(2):
        with tracking(recipe(tracking=[section]), run, told) as trackers:
            trackers.result(result)

    (there,) = runs_of(client, name)
    assert told.sentences == []
    assert (there.info.status, there.data.tags["compress.gates"]) == (status, verdict)
    versions = client.search_model_versions(f"name='{name}'")
    assert [(each.tags["compress.gates"], each.tags["compress.file"]) for each in versions] == (
        [(verdict, "export/student.int8.onnx")] if registered else []
    )


@pytest.mark.slow
def test_a_file_that_is_not_there_is_not_registered(tmp_path, told, server, client):
    section = {"kind": "mlflow", "uri": server, "experiment": "absent", "register": "absent", "file": "no.onnx"}
    with tracking(recipe(tracking=[section]), finished.folder(tmp_path / "run"), told) as trackers:
        trackers.result(finished.result(passed=True))

    assert "there is no no.onnx to register, only student.fp32.onnx, student.int8.onnx" in told.sentences[0]
    assert client.search_model_versions("name='absent'") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pixels", "shape", "kind"), [("float32", (-1, 1, 8, 8), "float32"), ("uint8", (-1, 8, 8, 1), "uint8")]
)
def test_the_registered_model_says_what_it_takes_and_returns(tmp_path, told, server, client, pixels, shape, kind):
    run = finished.folder(tmp_path / "run")
    graph(run.folder / "export/student.fp32.onnx", pixels=pixels)
    name = f"signed-{pixels}"
    wanted = recipe(tracking=[{"kind": "mlflow", "uri": server, "experiment": name, "register": name}])
    with tracking(wanted, run, told) as trackers:
        trackers.result(finished.result(passed=True))
    assert told.sentences == []

    from mlflow.models import get_model_info

    (version,) = client.search_model_versions(f"name='{name}'")
    place = client.download_artifacts(version.run_id, "model", str(tmp_path))
    signature = get_model_info(place).signature
    (given,), (returned,) = signature.inputs.inputs, signature.outputs.inputs
    assert (given.name, given.shape, given.type.name) == ("images", shape, kind)
    assert (returned.name, returned.shape, returned.type.name) == ("logits", (-1, 3), "float32")
    assert (version.source.rpartition("/")[2], version.tags["compress.precision"]) == ("model", "fp32")
    assert "onnxruntime" in (Path(place) / "requirements.txt").read_text()


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_the_same_and_sends_what_was_missed(tmp_path, told, server, client, monkeypatch):
    run = finished.folder(tmp_path / "run")
    wanted = recipe(tracking=[{"kind": "mlflow", "uri": server, "experiment": "resumed"}])
    with tracking(wanted, run, told) as trackers:
        trackers.epoch(row(1))
        with monkeypatch.context() as patch:
            patch.setattr(trackers._trackers[0]._client, "log_batch", lambda *_, **__: 1 / 0)
            trackers.epoch(row(2))
    assert told.sentences == ["warning: MLflow did not take epoch 2, and the run goes on: division by zero"]
    run.metrics.write_text("".join(json.dumps(row(epoch)) + "\n" for epoch in (1, 2, 3)))
    with tracking(wanted, run, told) as trackers:
        trackers.epoch(row(1))
        trackers.epoch(row(3))
        trackers.result(finished.result())

    (known,) = runs_of(client, "resumed")
    history = client.get_metric_history(known.info.run_id, "images_per_s")
    assert sorted((each.step, each.value) for each in history) == [(1, 100.0), (2, 200.0), (3, 300.0)]
    assert known.info.status == "FINISHED"
    assert "secret" not in run.tracking.read_text()

    run.tracking.write_text(json.dumps({"mlflow": "0" * 32}))  # of another server, or deleted
    with tracking(wanted, run, told) as trackers:
        trackers.epoch(row(1))
    assert len(runs_of(client, "resumed")) == 2


@pytest.mark.slow
def test_a_run_that_is_cut_short_is_marked_so(tmp_path, told, server, client):
    wanted = recipe(tracking=[{"kind": "mlflow", "uri": server, "experiment": "killed"}])
    with pytest.raises(Interrupted), tracking(wanted, finished.folder(tmp_path / "run"), told):
        raise Interrupted("stop")

    assert [known.info.status for known in runs_of(client, "killed")] == ["KILLED"]
