"""OpenVINO itself, imported when it is needed."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

from exporters.errors import RuntimeMissing


def package() -> Any:
    """Import OpenVINO, but for the part that tells its makers of each import and keeps a file in the home folder.

    Raises:
        RuntimeMissing: it is not installed.
    """
    private = {"openvino", "openvino_telemetry"}.isdisjoint(sys.modules)
    if private:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError as error:
        raise RuntimeMissing("OpenVINO is not installed", hint="pip install 'compressor[openvino]'") from error
    finally:
        if private:
            del sys.modules["openvino_telemetry"]
    return openvino


@cache
def core() -> Any:
    """Return the one `openvino.Core` of this process, which reads graphs and compiles them."""
    return package().Core()


def reason(error: RuntimeError) -> str:
    """Return the last line of an error of OpenVINO; those before it are places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1].rstrip(".!")
