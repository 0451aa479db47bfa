"""What all parts use: constants, and ONNX Runtime's tools without their noise and with errors of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto

from exporters.errors import ExporterError, ExportFailed
from exporters.quiet import first_line, quiet

STANDARD = ("", "ai.onnx")  # names of the domain of ONNX's own operators

_WARNING, _FATAL = 2, 4  # log severities of ONNX Runtime


def constants_of(model: ModelProto) -> dict[str, TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


@contextmanager
def quantising(source: Path) -> Iterator[None]:
    """Keep ONNX Runtime's tools silent, and turn what they raise, which is of any type, into one sentence."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(_FATAL)
    try:
        with quiet(), np.errstate(all="ignore"):
            yield
    except ExporterError:
        raise
    except Exception as error:
        reason = first_line(error).split(" : ", 3)[-1]  # ONNX Runtime begins with its name, a number and a kind
        raise ExportFailed(f"ONNX Runtime cannot quantise {source}: {reason}") from error
    finally:
        onnxruntime.set_default_logger_severity(_WARNING)
