"""What stands beside a plan in `<plan>.json`: what it was made of, where it runs, and what was found in it.

A plan is input to code that trusts it, and TensorRT does not say what is in it. It is loaded only when the sidecar has
its hash: this catches a file that was changed or mixed up, not one who replaces both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

from exporters import Engine, Output, Pixels
from exporters.errors import ArtifactRejected
from exporters.files import write_whole

SCHEMA = 1
Profile = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """The record of one plan. Names of files are without folders."""

    plan_sha256: str
    stem: str
    source: str  # the ONNX file, which a rebuild looks for beside the plan
    source_sha256: str
    format: str  # "trt" or "trt-rtx"
    version: str  # of TensorRT
    gpu: str | None  # None: built for all GPUs that the runtime supports
    sm: int | None
    system: str  # "linux-x86_64"
    profile: Profile  # smallest, usual and largest batch
    engine: Mapping[str, Any]  # the settings of `Engine`, without the timing cache
    precision: str
    census: Mapping[str, int]  # weights by the type they are computed in
    census_from: str  # "engine" (the inspector), "builder" (its listing) or "graph" (neither told)
    input_shape: tuple[int, int, int]  # C, H, W
    classes: int
    pixels: Pixels
    output: Output
    metadata: Mapping[str, str]  # of the ONNX file

    def settings(self) -> Engine:
        """Return how the plan was built, to build it again."""
        return Engine(batch=self.profile, **self.engine)


def path_of(plan: Path) -> Path:
    """Return where the sidecar of a plan is."""
    return plan.with_name(f"{plan.name}.json")


def sha256(content: bytes) -> str:
    """Return the hash as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def settings_of(engine: Engine) -> dict[str, Any]:
    """Return the settings that a sidecar keeps. Where measurements were cached is of this machine alone."""
    return {
        field.name: getattr(engine, field.name)
        for field in fields(engine)
        if field.name not in ("batch", "timing_cache")
    }


def write(plan: Path, content: bytes, sidecar: Sidecar) -> None:
    """Write plan and sidecar, both or neither. Cut short in between, a plan has no sidecar that fits, and is refused.

    Raises:
        ExportFailed: the folder cannot be written to, or the disk is full.
    """
    record = json.dumps({"schema": SCHEMA} | asdict(sidecar), indent=2, ensure_ascii=False) + "\n"
    write_whole(plan, content)
    try:
        write_whole(path_of(plan), record.encode())
    except BaseException:
        plan.unlink(missing_ok=True)
        raise


def read(plan: Path) -> Sidecar:
    """Return the record beside a plan.

    Raises:
        ArtifactRejected: it is absent, or not a record of this schema.
    """
    path = path_of(plan)
    hint = "export the plan again, and keep the two files together"
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ArtifactRejected(
            f"{plan} has no sidecar {path.name} beside it, and is not loaded without", hint=hint
        ) from error
    except OSError as error:
        raise ArtifactRejected(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    except ValueError as error:
        raise ArtifactRejected(f"{path} is not JSON", hint=hint) from error
    if not isinstance(found, dict) or found.pop("schema", None) != SCHEMA:
        raise ArtifactRejected(f"{path} is not a sidecar of schema {SCHEMA}", hint=hint)
    try:
        sidecar = Sidecar(**found | {key: tuple(found[key]) for key in ("profile", "input_shape")})
        _check(sidecar)
        sidecar.settings()
    except (TypeError, KeyError, ValueError) as error:
        raise ArtifactRejected(f"{path} is not a sidecar that an export wrote", hint=hint) from error
    return sidecar


def _check(sidecar: Sidecar) -> None:
    texts = (
        "plan_sha256",
        "stem",
        "source",
        "source_sha256",
        "format",
        "version",
        "system",
        "precision",
        "census_from",
    )
    wrong = [name for name in texts if not isinstance(getattr(sidecar, name), str)]
    for name in ("profile", "input_shape"):
        sizes = getattr(sidecar, name)
        if len(sizes) != 3 or not all(type(size) is int and size > 0 for size in sizes):
            wrong.append(name)
    wrong += [name for name in ("census", "metadata", "engine") if not isinstance(getattr(sidecar, name), dict)]
    if type(sidecar.classes) is not int or sidecar.classes < 1:
        wrong.append("classes")
    if sidecar.pixels not in get_args(Pixels) or sidecar.output not in get_args(Output):
        wrong.append("pixels")
    if any(Path(name).name != name for name in (sidecar.source, sidecar.stem) if isinstance(name, str)):
        wrong.append("source")  # a rebuild stays in the folder of the plan
    if wrong:
        raise ValueError(", ".join(wrong))


def verified(plan: Path) -> tuple[bytes, Sidecar]:
    """Return a plan and its record, whose hashes agree.

    Raises:
        ArtifactRejected: the plan is absent, has no sidecar, or is not the file that the sidecar was written for.
    """
    try:
        content = plan.read_bytes()
    except OSError as error:
        raise ArtifactRejected(f"cannot read {plan}: {(error.strerror or str(error)).lower()}") from error
    sidecar = read(plan)
    if sha256(content) != sidecar.plan_sha256:
        raise ArtifactRejected(
            f"{plan} is not the file that {path_of(plan).name} was written for: its hash differs",
            hint="export the plan again; it has been changed, or is another one",
        )
    return content, sidecar
