"""Other people's tools without their noise."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout


@contextmanager
def quiet() -> Iterator[None]:
    """Keep progress, advice and tracebacks of tracers and optimisers off the user's terminal.

    What they report matters only when it is an error, and that is raised. Deprecations are between these packages.
    """
    disabled, handlers = logging.root.manager.disable, logging.root.handlers[:]
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            for category in (DeprecationWarning, FutureWarning):
                warnings.filterwarnings(
                    "ignore", category=category, module=r"(torch|onnx|onnxscript|onnx_ir|copyreg)\b"
                )
            yield
    finally:
        logging.root.handlers[:] = handlers  # `logging.warning` installs one where there is none
        logging.disable(disabled)


def first_line(error: BaseException) -> str:
    """Return the first line of an error without its full stop, the name of its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
