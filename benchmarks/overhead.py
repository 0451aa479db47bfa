"""What a training spends beside its steps: the time to the first one, then validation, logs and checkpoints.

    python benchmarks/overhead.py
    python benchmarks/overhead.py --recipe cifar10-resnet26-resnet8-kd --teacher resnet26_cifar10.pt --epochs 3

Runs a training as `compress` does, in a process of its own. The time to the first step is from the start of that
process to the end of its first batch, with all imports, data and the look at the teacher. The shares are of the time
from there to the last epoch's end. Goal: validation, logs and checkpoints together under 5 %. Asserts nothing.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rounds import markdown, write_json

GOAL = 0.05
SPENT = ("training", "validation", "checkpoints", "logs")


def main(words: list[str] | None = None) -> dict[str, Any]:
    options = arguments(words)
    if options.began is not None:
        print(json.dumps(observed(options)))
        return {}
    command = [sys.executable, __file__, *(sys.argv[1:] if words is None else words)]
    done = subprocess.run([*command, "--began", repr(time.time())], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print("\n".join(spoken(found)))
    if options.json is not None:
        write_json(options.json, found)
    return found


def spoken(found: dict[str, Any]) -> list[str]:
    """Return the lines to print of what was observed, seconds by name."""
    whole = found["whole"]
    rest = whole - sum(found[name] for name in SPENT)
    rows = [(name, f"{found[name]:.3f}", f"{found[name] / whole:.1%}") for name in SPENT]
    beside = sum(found[name] for name in SPENT if name != "training") / whole
    return [
        f"time to the first step: {found['first_step']:.2f} s, of which imports {found['imports']:.2f} s",
        markdown(
            (f"{found['epochs']} epochs", "s", "share"), [*rows, ("all else", f"{rest:.3f}", f"{rest / whole:.1%}")]
        ),
        f"validation, logs and checkpoints: {beside:.1%} of the time (goal: under {GOAL:.0%})",
    ]


def observed(options: argparse.Namespace) -> dict[str, Any]:
    """Train, and return the seconds that each thing took."""
    from compressor import checkpoint
    from compressor.pipeline import epochs
    from compressor.pipeline.train import train
    from compressor.presets import find
    from compressor.progress import Tell
    from compressor.recipe import load
    from compressor.runs.folder import Run
    from compressor.training.loop import TrainingState

    imports = time.time() - options.began
    spent = dict.fromkeys(SPENT, 0.0)
    marks: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        for name, owner, attribute in (
            ("training", TrainingState, "advance"),
            ("training", TrainingState, "finish_epoch"),
            ("validation", epochs, "_validation_top1"),
            ("checkpoints", checkpoint, "save_state"),
            ("checkpoints", checkpoint, "save_weights"),
            ("checkpoints", TrainingState, "state_dict"),
            ("logs", Run, "log_epoch"),
        ):
            stack.enter_context(timed(owner, attribute, name, spent, marks))
        said = [f"train.epochs={options.epochs}", *options.set]
        said += [] if options.teacher is None else [f"teacher.checkpoint={options.teacher}"]
        said += [] if options.data is None else [f"data.name={options.data}"]
        recipe = load(find(options.recipe), said, trusted=True)
        train(recipe, Tell(quiet=True), out=Path(place) / "run", latest=False)
    whole = marks["last"] - marks["first"]
    spent["training"] -= marks["first_took"]  # which is told as the time to the first step
    return {
        "imports": imports,
        "first_step": marks["first"] - options.began,
        "whole": whole,
        "epochs": options.epochs,
        **spent,
    }


@contextmanager
def timed(owner: Any, attribute: str, name: str, spent: dict[str, float], marks: dict[str, float]) -> Iterator[None]:
    """Add the seconds of all calls to `spent[name]`; `marks` are the ends of the first step and of the last call."""
    real: Callable[..., Any] = getattr(owner, attribute)

    def call(*given: Any, **named: Any) -> Any:
        begun = time.time()
        try:
            return real(*given, **named)
        finally:
            now = time.time()
            if "first" not in marks and attribute == "advance":
                marks["first"], marks["first_took"] = now, now - begun
            spent[name] += now - begun
            marks["last"] = now

    with patch.object(owner, attribute, call):
        yield


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="digits-teacher", help="a recipe's name or file")
    parser.add_argument("--teacher", help="checkpoint, for recipes that have one")
    parser.add_argument("--data", help="instead of the recipe's")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
