"""What all parts use: constants, bytes, and ONNX Runtime's tools without their noise."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto

from exporters.errors import ExporterError, ExportFailed

STANDARD = ("", "ai.onnx")  # names of the domain of ONNX's own operators

_WARNING, _FATAL = 2, 4  # log severities of ONNX Runtime


def constants_of(model: ModelProto) -> dict[str, TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def first_line(error: BaseException) -> str:
    text = str(error).split(" : ", 3)[-1].strip()  # ONNX Runtime begins with its name, a number and a kind
    return (text.splitlines() or [type(error).__name__])[0].rstrip(".")


@contextmanager
def refused(source: Path) -> Iterator[None]:
    """Turn what ONNX Runtime's tools raise, which is of any type, into one sentence."""
    try:
        yield
    except ExporterError:
        raise
    except Exception as error:
        raise ExportFailed(f"ONNX Runtime cannot quantise {source}: {first_line(error)}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep progress, advice and warnings off the user's terminal. What goes wrong is raised."""
    import onnxruntime

    disabled, handlers = logging.root.manager.disable, logging.root.handlers[:]
    logging.disable(logging.CRITICAL)
    onnxruntime.set_default_logger_severity(_FATAL)
    try:
        with redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
            yield
    finally:
        onnxruntime.set_default_logger_severity(_WARNING)
        logging.root.handlers[:] = handlers  # `logging.warning` installs one where there is none
        logging.disable(disabled)
