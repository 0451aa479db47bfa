"""A graph written as IR: the same bytes in every process, and two files that belong together or are absent."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from exporters.errors import ExportFailed
from exporters.files import write_whole
from exporters.openvino.ir import HASH, METADATA, Graph, weights_of
from exporters.openvino.runtime import package, reason


def save(source: Path, graph: Graph, draft: Path) -> None:
    """Write the graph of the file `source` to `draft` and its weights beside it, in the types that they have.

    Raises:
        ExportFailed: OpenVINO cannot write it.
    """
    runtime, model = package(), graph.model
    _name_nodes(model)
    if model.has_rt_info(["framework"]):
        del model.rt_info["framework"]  # the metadata as the reader keeps them: not every text is XML
    model.set_rt_info(json.dumps(dict(graph.metadata), sort_keys=True), METADATA)
    try:
        for _ in range(2):  # the second time with the hash of the weights
            runtime.save_model(model, str(draft), compress_to_fp16=False)
            model.set_rt_info(hashlib.sha256(weights_of(draft).read_bytes()).hexdigest(), HASH)
    except RuntimeError as error:
        raise ExportFailed(f"OpenVINO cannot write {source} as IR: {reason(error)}") from error


def write_pair(path: Path, draft: Path) -> None:
    """Write the weights, then the graph that names their hash: at no time do two files pass that do not belong.

    Raises:
        ExportFailed: the folder cannot be written to, or the disk is full.
    """
    weights = weights_of(path)
    write_whole(weights, weights_of(draft).read_bytes())
    try:
        write_whole(path, draft.read_bytes())
    except ExportFailed:
        weights.unlink()
        path.unlink(missing_ok=True)
        raise


def _name_nodes(model: Any) -> None:
    """Name by place the nodes that OpenVINO added: it counts through the process, so names would depend on its past."""
    nodes = model.get_ordered_ops()
    given = {node.get_friendly_name() for node in nodes if node.get_friendly_name() != node.get_name()}
    for number, node in enumerate(nodes):
        if node.get_friendly_name() == node.get_name():
            name = f"{node.get_type_name()}_{number}"
            node.set_friendly_name(f"{name}_added" if name in given else name)
