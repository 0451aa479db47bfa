"""What decides between methods and losses: when to use each, what it costs, what was measured of it.

Costs and results are not written here: `benchmarks/loss_terms.py --keep` and `benchmarks/evidence.py tables` write them
beside this file. A key is what `describe` calls an entry: `method`, `soft` or `features`, and the kind.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

WHEN: dict[tuple[str, str], str] = {
    ("method", "ce"): "No teacher is at hand, or as the baseline that shows what a teacher is worth.",
    ("method", "kd"): "The first thing to try with one teacher, and the baseline of all others.",
    ("method", "bss"): "Decisions near the teacher's boundary matter, and its gradients are at hand.",
    ("method", "cckd"): "The teacher is wrong or unsure about a part of the training images.",
    ("method", "avg"): "Several teachers of about the same accuracy.",
    ("method", "ca-mkd"): "Several teachers of which some may be bad, on all images or on some.",
    ("method", "ps-kd"): "No teacher, and predictions that are too sure of themselves.",
    ("method", "ai-kd"): "A trained copy of the student's own network is the only teacher.",
    ("method", "ackd"): "A deep student, whose inner stages learn better with heads of their own.",
    ("method", "simkd"): "Accuracy counts more than a few layers: the student keeps the teacher's classifier.",
    ("method", "pgd-at"): "A robust teacher is to be trained, or robustness without a teacher.",
    ("method", "ard"): "A robust teacher, and attacks on the student as the published baseline has them.",
    ("method", "rslad"): "A robust teacher whose soft answers are better than the labels of attacked images.",
    ("method", "adaad"): "A robust teacher that may be differentiated: attacks where student and teacher differ most.",
    ("method", "dgad"): "A robust teacher that is wrong about a part of the images.",
    ("method", "dfad"): "No image at all, and a teacher that may be differentiated.",
    ("method", "dfq-akd"): "No image at all, and a teacher with BatchNorm.",
    ("method", "qimera"): "No image at all, and a student that is the teacher in fewer bits.",
    ("method", "uda"): "Labels of one domain, unlabelled images of the one that counts, and no teacher.",
    ("method", "kd-uda"): "A teacher of one domain, and unlabelled images of the one that counts.",
    ("method", "ugan"): "Few labels and many unlabelled images.",
    ("soft", "kl"): "The default: one temperature for student and teacher.",
    ("soft", "lskd"): "Student and teacher differ much in capacity, so that their logits have different ranges.",
    ("soft", "dkd"): "The teacher is very sure, and what it says of the other classes would not be heard.",
    ("soft", "dist"): "A teacher much stronger than the student, whose order of classes counts more than its values.",
    ("soft", "ttm"): "As kl with a temperature on the teacher alone: the student stays sharp.",
    ("soft", "wttm"): "As ttm, where images that the teacher is unsure about should count more.",
    ("soft", "ctkd"): "No temperature is known to be good, and tuning is not wanted.",
    ("soft", "wkd-l"): "Classes that are alike: the teacher's classifier says how far apart they are.",
    ("features", "fitnet"): "Maps of the same size, and inner outputs that should be the same values.",
    ("features", "at"): "Maps of the same size and any channels: where a network looks, not what it says.",
    ("features", "sp"): "Outputs of any shapes: which images of a batch are alike.",
    ("features", "rkd"): "Embeddings, whose distances and angles matter more than their values.",
    ("features", "pkt"): "Embeddings for retrieval: which images are neighbours.",
    ("features", "fsp"): "Two layers with the same channels in both networks: how one leads to the other.",
    ("features", "nd"): "The layer before the classifier, of networks of the same kind.",
    ("features", "vkd"): "A student that is narrower than its teacher at the layer before the classifier.",
    ("features", "wkd-f"): "Maps whose means and deviations count and whose places do not.",
    ("features", "reviewkd"): "Networks with the same stages, of which later ones should help earlier ones.",
    ("features", "crd"): "Many images and memory for two banks: which image an output belongs to.",
}


def cost(what: str, kind: str) -> float | None:
    """Return how many plain KD steps one of its own takes, as measured in one run with all others; None where not."""
    ratio: float | None = _read("costs.json")["ratios"].get(f"{what} {kind}")
    return ratio


def cost_protocol() -> str:
    """Return how the costs were measured."""
    protocol: str = _read("costs.json")["protocol"]
    return protocol


def measured(what: str, kind: str) -> list[str]:
    """Return what docs/evidence.md has of it, a sentence for each comparison with a baseline."""
    return [row["sentence"] for row in _read("measured.json")["rows"] if [what, kind] in row["of"]]


@cache
def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))
    return found
