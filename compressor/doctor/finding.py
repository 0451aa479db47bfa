"""One line of a diagnosis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["ok", "absent", "broken"]


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Args:
        check: its name for machines, such as `onnxruntime-cuda`.
        title: its name for people.
        status: `absent` is what was never installed or plugged in, `broken` what is there and does not work.
        found: what is there, or one sentence that says what is wrong, without a full stop.
        remedy: the line to type, or what else to do about it.
        needed: what it is needed for, such as `export trt`; empty for what is not.
        facts: versions and counts that other checks go by.
    """

    check: str
    title: str
    status: Status
    found: str
    remedy: str | None = None
    needed: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def missing(self) -> bool:
        """Whether something that is needed does not work."""
        return self.status != "ok" and bool(self.needed)
