"""Distillation methods. To add one: its module, then its line in `METHODS`."""

import inspect
import re
from typing import Annotated, Any

from pydantic import BaseModel

from compressor.kinds import Kinds, NotLoaded
from compressor.methods import guide
from compressor.methods.ackd import ACKD
from compressor.methods.adaptation import KDUDA, UDA
from compressor.methods.aikd import AIKD
from compressor.methods.bss import BSS
from compressor.methods.cckd import CCKD
from compressor.methods.ce import CE
from compressor.methods.datafree import DFAD, DFQ, Qimera
from compressor.methods.ensemble import CAMKD, Average
from compressor.methods.kd import KD
from compressor.methods.losses import FEATURE_LOSSES, LOGIT_LOSSES
from compressor.methods.protocol import (
    Config,
    Method,
    Moment,
    Needs,
    NotLoadedMethod,
    Objective,
    Player,
    Setting,
    Update,
)
from compressor.methods.pskd import PSKD
from compressor.methods.robust import ARD, DGAD, PGDAT, RSLAD, AdaAD
from compressor.methods.simkd import SimKD
from compressor.methods.taps import Taps
from compressor.methods.ugan import UGAN

METHODS: dict[str, type[Any]] = {
    "ce": CE,
    "kd": KD,
    "bss": BSS,
    "cckd": CCKD,
    "avg": Average,
    "ca-mkd": CAMKD,
    "ps-kd": PSKD,
    "ai-kd": AIKD,
    "ackd": ACKD,
    "simkd": SimKD,
    "pgd-at": PGDAT,
    "ard": ARD,
    "rslad": RSLAD,
    "adaad": AdaAD,
    "dgad": DGAD,
    "dfad": DFAD,
    "dfq-akd": DFQ,
    "qimera": Qimera,
    "uda": UDA,
    "kd-uda": KDUDA,
    "ugan": UGAN,
}
AnyMethod = Annotated[Method, Kinds(METHODS, "mypackage.methods:Mine", ("build", "needs"), NotLoadedMethod)]


def describe() -> list[dict[str, Any]]:
    """Return the methods, then the losses: name, what it is, when to use it, source, needs, cost, what was measured.

    `what` is method, soft (a loss between logits) or features (one between inner outputs); losses need nothing of
    their own. `cost` counts plain KD steps, null where it was not measured. `required` keys have no default.
    """
    methods = [_described("method", kind, one) | {"needs": _needed(one.needs)} for kind, one in METHODS.items()]
    losses = [("soft", *entry) for entry in LOGIT_LOSSES.items()] + [
        ("features", *entry) for entry in FEATURE_LOSSES.items()
    ]
    return methods + [_described(*loss) | {"needs": ""} for loss in losses]


def _described(what: str, kind: str, one: type[BaseModel]) -> dict[str, Any]:
    required = [key for key, field in one.model_fields.items() if field.is_required()]
    defaults = one.model_construct().model_dump(mode="json", exclude={"kind"})
    return {
        "kind": kind,
        "what": what,
        "summary": (inspect.getdoc(one) or "").partition("\n")[0],
        "when": guide.WHEN[what, kind],
        "source": _source(inspect.getdoc(one) or ""),
        "cost": guide.cost(what, kind),
        "measured": guide.measured(what, kind),
        "required": required,
        "defaults": defaults,
    }


def _source(text: str) -> str:
    """Return whom a docstring names in its first line, and the title that it gives after `Source:`."""
    cited = re.findall(r"\(([^()]*\d{4}[^()]*|Wang et al\.)\)", text.partition("\n")[0])
    titled = re.search(r'Source: (?:"([^"]+)"|([^.]+\.))', " ".join(text.split()))
    title = "" if titled is None else f'"{titled[1]}"' if titled[1] else titled[2].rstrip(".")
    return ", ".join([*cited[:1], *filter(None, [title])])


def _needed(needs: Needs) -> str:
    """Return what a method must be given, in words."""
    count = {0: "no teacher", 1: "a teacher"}.get(needs.teachers, f"{needs.teachers} teachers")
    if needs.most is None:
        count += " or more"
    elif needs.most > needs.teachers:
        count = f"{needs.teachers} to {needs.most} teachers"
    given = [count, "labelled images" if needs.data else "no images"]
    given += ["a second, unlabelled stream"] if needs.unlabelled else []
    given += ["unlabelled images of another domain"] if needs.target else []
    given += [f"{needs.views} views of an image"] if needs.views > 1 else []
    given += ["gradients through the teacher"] if needs.gradients else []
    return ", ".join(given)


__all__ = [
    "METHODS",
    "AnyMethod",
    "Config",
    "Method",
    "Moment",
    "Needs",
    "NotLoaded",
    "Objective",
    "Player",
    "Setting",
    "Taps",
    "Update",
    "describe",
]
