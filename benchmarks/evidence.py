"""The numbers that documents quote: kept from trainings as small JSON, and written from it as tables.

    compress compare RECIPE ... --out FOLDER                                       # hours; resumable
    python benchmarks/evidence.py keep FOLDER --claim few20 --commit SHA --note "..."   # one file a training
    python benchmarks/evidence.py tables                                           # docs/evidence.md from all files

A file holds what a training was (its recipe, the commit of the code, the machine, the data's fingerprint) and what came
of it. `tables` computes nothing that is not in the files, so a number in docs/evidence.md can be traced to its
trainings. Paths of the machine are left out.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from compressor.measure.paired import CONFIDENCE, QUALITIES, Cell, Difference, Outcome, Row, Spread, analyse, spread

HERE = Path(__file__).resolve().parent
STORE = HERE / "evidence"
PAGE = HERE.parent / "docs" / "evidence.md"
MEASURED_BY_METHOD = HERE.parent / "compressor" / "methods" / "measured.json"  # what `compress methods` says
MARK = "<!-- tables: written by benchmarks/evidence.py, not by hand -->"
MEASURED = ("top1", "agreement", "boundary_agreement", "fgsm_top1", "pgd_top1", "ece", "nll", "angsim", "parameters")
TITLES = {
    "top1": "top-1 %",
    "agreement": "agreement",
    "boundary_agreement": "boundary agreement",
    "ece": "ECE",
    "angsim": "AngSim",
    "int8_top1": "INT8 top-1 %",
}
DIGITS = {"top1": 2, "int8_top1": 2}  # else 3
PUBLISHED = "bss"  # what other forms of boundary samples are compared with
BASELINES = ("ce", "kd", PUBLISHED)


def keep(folder: Path, claim: str, commit: str, note: str) -> list[Path]:
    """Write one file for each finished training of a comparison, and return them."""
    written = []
    compared = folder / "compare.json"  # absent where runs were begun one by one
    cells = json.loads(compared.read_text(encoding="utf-8"))["cells"] if compared.exists() else []
    methods = {cell["name"]: cell["method"] for cell in cells}
    for record in sorted(folder.glob("*/result.json")):
        run = record.parent
        result = json.loads(record.read_text(encoding="utf-8"))
        if (cells and run.name not in methods) or result["student"].get("top1") is None:
            continue
        kept = _kept(run, result, commit, note)
        kept |= {"method": methods.get(run.name) or _method(kept["recipe"]["method"])}
        cell = _cell(kept)  # which names a variant apart, whatever its run is called
        place = STORE / claim / f"{cell.student}-{cell.method}-s{cell.seed}.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        written.append(place)
    return written


def _kept(run: Path, result: Mapping[str, Any], commit: str, note: str) -> dict[str, Any]:
    recipe = yaml.safe_load((run / "recipe.resolved.yaml").read_text(encoding="utf-8"))
    environment = json.loads((run / "env.json").read_text(encoding="utf-8"))
    recipe["data"]["name"] = str(recipe["data"]["name"]).partition(":")[0] + ":" + Path(recipe["data"]["name"]).name
    teacher = result["teacher"]
    if recipe.get("teacher"):
        recipe["teacher"]["checkpoint"] = Path(recipe["teacher"]["checkpoint"]).name
    sections = ("seed", "data", "teacher", "student", "method", "train", "validate")
    return {
        "note": note,
        "commit": commit,
        "recipe": {key: recipe[key] for key in sections if recipe.get(key) is not None},
        "data": {key: value for key, value in result["data"].items() if key != "source"},
        "teacher": None if teacher is None else {"sha256": teacher["sha256"], "top1": teacher["top1"]},
        "student": {key: result["student"].get(key) for key in MEASURED} | {"int8_top1": _int8(result)},
        "training": result["training"],
        "side_by_side": environment.get("side_by_side"),
        "machine": {key: result["hardware"].get(key) for key in ("cpu", "cores", "gpus")},
        "versions": {key: result["versions"].get(key) for key in ("compressor", "torch", "python")},
    }


def _int8(result: Mapping[str, Any]) -> float | None:
    """Return the accuracy of the student as INT8, where it was exported and measured."""
    found = (each["top1"] for each in result["artifacts"] if each["precision"] == "int8")
    return next(found, None)


def tables() -> str:
    """Return all tables as Markdown."""
    parts = [_section(claim, trainings) for claim, trainings in _claims()]
    return "\n\n".join(parts) + "\n"


def by_method() -> list[dict[str, Any]]:
    """Return a sentence for each row of the tables and each baseline, with the methods and losses that it is of."""
    found = []
    for claim, trainings in _claims():
        outcomes = {_cell(each): _outcome(each) for each in trainings}
        for row in analyse(list(outcomes), outcomes, baselines=BASELINES):
            (recipe, *_) = [each["recipe"] for each in trainings if _cell(each).method == row.method]
            for baseline in BASELINES:
                difference = _to(row, baseline)
                if difference is not None:
                    verdict = "" if difference.shown else ", not shown"
                    which = f"{row.method} minus {baseline}"
                    sentence = f"{claim}, {row.student}: {which} {_difference(difference)} seeds won{verdict}"
                    found.append({"claim": claim, "method": row.method, "of": _parts(recipe), "sentence": sentence})
    return found


def _parts(recipe: Mapping[str, Any]) -> list[list[str]]:
    """Return the method of a recipe and the losses that it names, as `compress methods` lists them."""
    method = recipe.get("method") or recipe["stages"][-1]["method"]
    soft = [["soft", method["soft"]["kind"]]] if method.get("soft") else []
    features = [["features", each["kind"]] for each in method.get("features") or ()]
    return [["method", method["kind"]], *soft, *(each for n, each in enumerate(features) if each not in features[:n])]


def _claims() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for folder in sorted(path for path in STORE.iterdir() if path.is_dir()):
        files = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
        if files:
            yield folder.name, files


def _section(claim: str, trainings: list[dict[str, Any]]) -> str:
    outcomes = {_cell(each): _outcome(each) for each in trainings}
    order = sorted(outcomes, key=lambda cell: (cell.student, cell.seed, cell.method))
    rows = sorted(
        analyse(order, outcomes, baselines=BASELINES), key=lambda row: (row.student, -(_mean(row, "top1") or 0.0))
    )
    first = trainings[0]
    train, data = first["recipe"]["train"], first["data"]
    commits = sorted({each["commit"][:9] for each in trainings})
    precision = train.get("precision", "fp32")
    lines = [
        f"### {claim}",
        "",
        f"{first['note']} {data['train']:,} training images, {data['validation']:,} for validation, {data['test']:,} "
        f"to measure; {train['epochs']} epochs at {precision}; the last epoch counts. "
        f"Commit {', '.join(commits)}, torch {first['versions']['torch']}, {first['machine']['cpu']}.",
        "",
        "| student | method | seeds | "
        + " | ".join(TITLES.values())
        + " | top-1 minus ce | top-1 minus kd | top-1 minus bss |",
        "|---|---|---:|" + "---:|" * (len(TITLES) + 3),
        *(_line(row, trainings) for row in rows),
    ]
    return "\n".join(lines)


def _line(row: Row, trainings: Iterable[dict[str, Any]]) -> str:
    own = [each for each in trainings if (_cell(each).student, _cell(each).method) == (row.student, row.method)]
    cells = [row.student, row.method, ", ".join(map(str, row.seeds))]
    for name in TITLES:
        values = [value for each in own if (value := each["student"].get(name)) is not None]
        cells.append(_spread(spread(values) if values else None, DIGITS.get(name, 3)))
    cells += [_difference(_to(row, baseline)) for baseline in BASELINES]
    return "| " + " | ".join(cells) + " |"


def _to(row: Row, baseline: str) -> Difference | None:
    """Return the difference of a row to a baseline; to the published boundary samples, that of other forms of them."""
    return row.difference(baseline) if baseline != PUBLISHED or row.method.startswith(PUBLISHED) else None


def _cell(training: Mapping[str, Any]) -> Cell:
    recipe = training["recipe"]
    return Cell(recipe["student"]["arch"], training["method"], recipe["seed"])


def _method(method: Mapping[str, Any]) -> str:
    """Return the name of a method, with what sets it apart from the published form."""
    attack = method.get("attack") or {}
    unusual = [str(attack[key]) for key in ("walk", "keep") if attack.get(key) not in (None, "published", "all")]
    soft = (method.get("soft") or {}).get("kind")
    return "+".join([method["kind"], *([soft] if soft not in (None, "kl") else []), *unusual])


def _outcome(training: Mapping[str, Any]) -> Outcome:
    student = training["student"]
    return Outcome(
        **{name: student.get(name) for name in QUALITIES},
        seconds=training["training"]["seconds"],
    )


def _mean(row: Row, metric: str) -> float | None:
    found = row.spreads[metric]
    return None if found is None else found.mean


def _spread(found: Spread | None, digits: int) -> str:
    if found is None:
        return "-"
    return f"{found.mean:.{digits}f}" + ("" if found.sd is None else f" ± {found.sd:.{digits}f}")


def _difference(found: Difference | None) -> str:
    if found is None:
        return "-"
    interval = found.spread.interval
    between = "" if interval is None else f" [{interval[0]:+.2f}, {interval[1]:+.2f}]"
    return f"{found.spread.mean:+.2f}{between}, {found.wins} of {len(found.seeds)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    keeping = verbs.add_parser("keep", help="keep the trainings of a comparison")
    keeping.add_argument("folder", type=Path)
    keeping.add_argument("--claim", required=True, help="what the trainings show; the folder of their files")
    keeping.add_argument("--commit", required=True, help="of the code that trained")
    keeping.add_argument("--note", required=True, help="the protocol, in a sentence")
    verbs.add_parser("tables", help="write docs/evidence.md")
    options = parser.parse_args()
    if options.verb == "keep":
        for path in keep(options.folder, options.claim, options.commit, options.note):
            print(path.relative_to(HERE.parent))
        return
    head, _, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
    legend = (
        f"Mean ± standard deviation over the seeds. Differences are paired by seed, in points, with the "
        f"{100 * CONFIDENCE:.0f} % t-interval of their mean and the seeds that won; an interval that holds zero shows "
        "neither a gain nor its absence.\n\n"
    )
    PAGE.write_text(f"{head}{MARK}\n\n{legend}{tables()}", encoding="utf-8")
    MEASURED_BY_METHOD.write_text(json.dumps({"rows": by_method()}, indent=1) + "\n", encoding="utf-8")
    for path in (PAGE, MEASURED_BY_METHOD):
        print(path.relative_to(HERE.parent))


if __name__ == "__main__":
    main()
