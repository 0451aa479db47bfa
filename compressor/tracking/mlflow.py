"""MLflow: one run on its server for one run folder, through the client alone, so that no global state is touched."""

from __future__ import annotations

import io
import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import EnvironmentMissing, InputRejected, UsageError
from compressor.files import write_text
from compressor.recipe import MLflow, Recipe
from compressor.runs import record
from compressor.runs.folder import Run
from compressor.tracking import FAILED, FINISHED, reason_of, without_secrets
from compressor.tracking.values import of_epoch, of_result, parameters

if TYPE_CHECKING:
    from mlflow import MlflowClient

_AT_ONCE = 100  # parameters in a request; the server takes no more
_HASH = "compress.sha256"
_VERDICT = "compress.gates"
_KEPT = ("held", "none")  # verdicts under which a file is registered
_FILES = ("recipe.resolved.yaml", "env.json", "result.json", "metrics.jsonl", "manifest.json")
_FOLDERS = ("student", "export", "report")
# Where the user has set nothing: a server that is down costs seconds a request, not MLflow's minutes, and nobody is
# told of the use of it.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


class MLflowTracker:
    """A `Tracker` of a run on a server. Its id is kept in the run folder, so that a resumed run goes on with it."""

    title = "MLflow"

    def __init__(self, config: MLflow, recipe: Recipe, run: Run) -> None:
        self._config, self._run = config, run
        self._verdict = "none"
        with _quiet():
            self._client = _client(config)
            self._id = self._known_run() or self._new_run(recipe.name)
            self._log_parameters(parameters(recipe))
            self._sent = {metric.step for metric in self._client.get_metric_history(self._id, "lr")}

    def epoch(self, row: Mapping[str, Any]) -> None:
        with _quiet():
            self._log_epoch(row)

    def result(self, result: record.Result) -> None:
        with _quiet():
            for row in self._run.epochs():  # those that the server missed
                self._log_epoch(row)
            known = self._client.get_run(self._id).data.metrics
            new = {name: value for name, value in of_result(result).items() if known.get(name) != value}
            self._log_metrics(new, result.training.epochs)
            for name in _FILES:
                if (self._run.folder / name).is_file():
                    self._client.log_artifact(self._id, str(self._run.folder / name))
            for name in _FOLDERS:
                if (self._run.folder / name).is_dir():
                    self._client.log_artifacts(self._id, str(self._run.folder / name), name)
            self._verdict = _verdict(result)
            self._client.set_tag(self._id, _VERDICT, self._verdict)
            graphs = [each for each in result.artifacts if each.format == "onnx"]
            if self._config.register_as is not None and graphs and self._verdict in _KEPT:
                self._register(self._config.register_as, self._chosen(graphs))

    def close(self, status: str) -> None:
        failed = status == FINISHED and self._verdict == "broken"
        with _quiet():
            self._client.set_terminated(self._id, FAILED if failed else status)

    def _chosen(self, graphs: Sequence[record.Artifact]) -> record.Artifact:
        """Return the file to register.

        Raises:
            InputRejected: the recipe names one that the run has not.
        """
        wanted = self._config.file
        names = {Path(graph.path).name: graph for graph in graphs}
        if wanted is not None and wanted not in names:
            raise InputRejected(f"there is no {wanted} to register, only {', '.join(names)}")
        return graphs[0] if wanted is None else names[wanted]

    def _known_run(self) -> str | None:
        """Return the id that this run folder has on the server, None where it has none or the server lost it."""
        from mlflow.exceptions import MlflowException

        if not self._run.tracking.is_file():
            return None
        known = json.loads(self._run.tracking.read_text(encoding="utf-8"))
        try:
            self._client.update_run(known["mlflow"], status="RUNNING")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return str(known["mlflow"])

    def _new_run(self, name: str) -> str:
        experiment = self._client.get_experiment_by_name(self._config.experiment)
        where = experiment.experiment_id if experiment else self._client.create_experiment(self._config.experiment)
        run_id = str(self._client.create_run(where, run_name=name).info.run_id)
        write_text(self._run.tracking, json.dumps({"mlflow": run_id}) + "\n")
        return run_id

    def _log_parameters(self, values: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        known = self._client.get_run(self._id).data.params  # what was told once cannot be changed
        new = [Param(name, value) for name, value in values.items() if name not in known]
        for start in range(0, len(new), _AT_ONCE):
            self._client.log_batch(self._id, params=new[start : start + _AT_ONCE])

    def _log_epoch(self, row: Mapping[str, Any]) -> None:
        if row["epoch"] not in self._sent:
            self._log_metrics(of_epoch(row), row["epoch"])
            self._sent.add(row["epoch"])

    def _log_metrics(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._id, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def _register(self, name: str, graph: record.Artifact) -> None:
        """Make an ONNX file a version of a registered model, unless this run has done so with the same file."""
        import mlflow.onnx
        from mlflow.exceptions import MlflowException

        from exporters.onnx.graph import whole

        for version in self._client.search_model_versions(f"name='{name}'"):
            if version.run_id == self._id and version.tags.get(_HASH) == graph.sha256:
                self._client.set_model_version_tag(name, version.version, _VERDICT, self._verdict)
                return
        model = whole(self._run.folder / graph.path)
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "model"
            mlflow.onnx.save_model(model, str(place), signature=_signature(model), pip_requirements=_requirements())
            self._client.log_artifacts(self._id, str(place), "model")
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        tags = {_HASH: graph.sha256, "compress.precision": graph.precision, "compress.file": graph.path}
        tags[_VERDICT] = self._verdict
        source = f"{self._client.get_run(self._id).info.artifact_uri}/model"
        self._client.create_model_version(name, source, run_id=self._id, tags=tags)


def require(config: MLflow) -> None:
    """See `compressor.tracking.require`."""
    if find_spec("mlflow") is None:
        raise EnvironmentMissing(
            "the recipe tracks with MLflow, which is not installed", hint="pip install 'compressor[mlflow]'"
        )
    uri = _uri(config)
    try:
        with _quiet():
            _client(config).search_experiments(max_results=1)
    except Exception as error:  # of the client, of requests, of the database
        raise EnvironmentMissing(
            f"the MLflow server {without_secrets(uri)} cannot be used: {reason_of(error)}",
            hint="start it, correct tracking.uri or $MLFLOW_TRACKING_URI, or leave MLflow out: --set 'tracking=[]'",
        ) from error


def _client(config: MLflow) -> MlflowClient:
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    uri = _uri(config)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _uri(config: MLflow) -> str:
    uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise UsageError(
            "the recipe tracks with MLflow and names no server",
            hint="tracking: [{kind: mlflow, uri: http://127.0.0.1:5000}], or export MLFLOW_TRACKING_URI",
        )
    return uri


def _verdict(result: record.Result) -> str:
    """Return how a run stands with its gates: `held`, `broken`, `open` while one waits, `none` where there are none."""
    return {True: "held", False: "broken", None: "open" if result.gates else "none"}[result.passed]


def _signature(model: Any) -> Any:
    """Return what the graph takes and returns, -1 for the batch."""
    import onnx
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def spec(value: Any) -> Any:
        kind = value.type.tensor_type
        sizes = [each.dim_value if each.HasField("dim_value") else -1 for each in kind.shape.dim]
        return TensorSpec(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type), tuple(sizes), value.name)

    given, returned = ([spec(value) for value in values] for values in (model.graph.input, model.graph.output))
    return ModelSignature(Schema(given), Schema(returned))


def _requirements() -> list[str]:
    """Return what loads the model. Asking MLflow to find out would load it in yet another process."""
    return [f"{name}=={metadata.version(name)}" for name in ("onnx", "numpy")] + ["onnxruntime"]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what MLflow prints, logs and warns of from the user's terminal."""
    logger = logging.getLogger("mlflow")
    before = logger.disabled, logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled, logger.level = before
