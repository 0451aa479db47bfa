"""Where INT8 loses, and what training through its rounding brings back: fp32, INT8 after training, the same with
`max_drop`, and quantisation-aware distillation of the same network by its own fp32 self.

    python benchmarks/qad.py --data folder:cifar10 --students mobilenetv2 torchvision/mobilenet_v3_small \\
        torchvision/efficientnet_b0 --epochs 30 --qad-epochs 5 --out runs/qad --json benchmarks/evidence/qad.json

Each network is trained on labels once and kept in OUT; its exports are made again. A student with its own settings is
`ARCH@KEY=VALUE@...`, as for `--set`. Accuracies are of the test split. Asserts nothing.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor import api
from compressor.errors import CompressError
from compressor.machine.hardware import versions
from compressor.progress import Tell
from compressor.runs.record import Result
from exporters.errors import ExporterError

COLUMNS = ("fp32", "INT8", "INT8, max_drop", "INT8, QAD")


def main() -> None:
    options = arguments()
    print(f"| network | {' | '.join(f'{column}, %' for column in COLUMNS)} | kept in fp32 |")
    print(f"|---|{'---|' * (len(COLUMNS) + 1)}")
    rows = [row(student, options) for student in options.students]
    if options.json is not None:
        facts = {"data": options.data, "epochs": options.epochs, "qad_epochs": options.qad_epochs}
        options.json.write_text(json.dumps({**facts, "versions": versions(), "rows": rows}, indent=1) + "\n")


def row(student: str, options: argparse.Namespace) -> dict[str, Any]:
    arch, *settings = student.split("@")
    own = {key: json.loads(value) for key, value in (each.split("=", 1) for each in settings)}
    name = arch.replace("/", "-").replace(":", "-")
    trained = network(arch, options.out / name, options, own)
    found: dict[str, Any] = {"network": student, "fp32": trained.result.student.top1}
    found["INT8"], _ = exported(trained, {})
    found["INT8, max_drop"], found["kept_fp32"] = exported(trained, {"max_drop": options.max_drop})
    aware = api.distill(
        trained,
        arch,
        options.data,
        method={"kind": "kd"},
        settings={
            **own,
            "seed": options.seed,
            "train.epochs": options.qad_epochs,
            "train.lr": options.qad_lr,
            "student.init": str(trained.folder),
            "student.quantize": {"weights": options.weights, "activations": options.activations},
        },
        out=options.out / f"{name}-qad",
        overwrite=True,
        tell=Tell(quiet=True),
    )
    found["INT8, QAD"] = measured(aware.export(tell=Tell(quiet=True)), aware)
    cells = [f"{found[column]:.2f}" if isinstance(found[column], float) else found[column] for column in COLUMNS]
    print(f"| {arch} | {' | '.join(cells)} | {len(found['kept_fp32'] or ())} |", flush=True)
    return found


def network(arch: str, folder: Path, options: argparse.Namespace, own: Mapping[str, Any]) -> api.Run:
    if (folder / "result.json").is_file():
        return api.Run(folder)
    settings = {**own, "seed": options.seed, "train.epochs": options.epochs, "train.lr": options.lr}
    return api.train(arch, options.data, settings=settings, out=folder, tell=Tell(quiet=True))


def exported(run: api.Run, target: Mapping[str, Any]) -> tuple[float | str, tuple[str, ...] | None]:
    """Return the accuracy of an INT8 file and the layers that it keeps in fp32, or why there is none."""
    try:
        result = run.export(precision="int8", tell=Tell(quiet=True), **target)
    except (CompressError, ExporterError) as refusal:
        return f"refused: {refusal.message.partition(':')[0]}", None
    calibration = result.artifacts[-1].calibration
    return measured(result, run), None if calibration is None else calibration.kept_fp32


def measured(result: Result, run: api.Run) -> float | str:
    path = result.artifacts[-1].path
    checked = run.validate(tell=Tell(quiet=True))
    top1 = next(each.top1 for each in checked.artifacts if each.path == path)
    return "not run" if top1 is None else top1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="cifar10, folder:PATH, ...")
    parser.add_argument("--students", nargs="+", required=True, help="architectures, ARCH@KEY=VALUE for settings")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--qad-epochs", type=int, default=5)
    parser.add_argument("--qad-lr", type=float, default=0.005)
    parser.add_argument("--max-drop", type=float, default=0.5, help="points, for the third column")
    parser.add_argument("--weights", type=int, default=8, help="bits")
    parser.add_argument("--activations", type=int, default=8, help="bits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/qad"))
    parser.add_argument("--json", type=Path, help="also write the rows here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
