"""What `compress methods` says of each method and loss: all of it is there, and its numbers are those of files."""

import json
import re
from pathlib import Path

import pytest

from compressor.methods import describe, guide

HERE = Path(guide.__file__).parent
ENTRIES = describe()


def test_every_method_and_loss_says_when_to_use_it_and_no_other_does():
    assert {(each["what"], each["kind"]) for each in ENTRIES} == guide.WHEN.keys()
    assert all(each["when"].endswith(".") for each in ENTRIES)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry['what']} {entry['kind']}")
def test_every_method_and_loss_but_the_baselines_names_its_source(entry):
    assert entry["source"] or entry["kind"] in ("ce", "avg")


def test_costs_are_those_of_the_benchmark_and_kd_is_one():
    kept = json.loads((HERE / "costs.json").read_text(encoding="utf-8"))

    known = {(each["what"], each["kind"]): each["cost"] for each in ENTRIES}
    assert known["method", "kd"] == 1
    for name, ratio in kept["ratios"].items():
        what, _, kind = name.partition(" ")
        assert known[what, kind] == ratio
    assert re.search(r"[0-9]+ rounds", guide.cost_protocol())
    assert known["method", "dfad"] is None  # its steps are of other images


def test_what_was_measured_is_what_the_evidence_has():
    rows = json.loads((HERE / "measured.json").read_text(encoding="utf-8"))["rows"]
    store = Path(__file__).parent.parent / "benchmarks" / "evidence"

    kept = [json.loads(path.read_text(encoding="utf-8")) for path in store.glob("*/*.json")]
    claims = {path.name for path in store.iterdir() if path.is_dir()}
    assert {row["claim"] for row in rows} <= claims
    assert {row["method"] for row in rows} <= {each["method"] for each in kept}
    (kd,) = [each for each in ENTRIES if (each["what"], each["kind"]) == ("method", "kd")]
    assert any("few20" in sentence and "minus ce" in sentence for sentence in kd["measured"])
