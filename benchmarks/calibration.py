"""What the calibration images do for INT8: boundary supporting samples among them, synthetic ones, or noise.

    python benchmarks/calibration.py --teacher resnet20_cifar10.th --data folder:cifar10
    python benchmarks/calibration.py --teacher resnet20_cifar10.th --data folder:cifar10 \
        --images training synthetic noise --boundary 0 --samples 128 --seeds 3 --limit 2000 \
        --json benchmarks/evidence/calibration.json

Quantises a trained network for CPUs and for TensorRT, calibrated on training images of which a share was walked to the
network's decision boundary. Each file is scored on the same test images, and on test images walked to the boundary,
where a wrong rounding flips the class first. A seed draws the calibration images and their walks; what is scored stays
the same. Prints a table in Markdown: means and standard deviations over the seeds. Both recipes are run by ONNX Runtime
on the CPU, which computes in TensorRT's the same sums, if slowly.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from compressor import checkpoint
from compressor.artifacts.calibration import calibration_images
from compressor.artifacts.synthetic import synthetic_images
from compressor.data import Dataset, open_data
from compressor.machine.hardware import versions
from compressor.measure.hard_images import BoundarySet, boundary_agreement, boundary_set
from compressor.measure.scores import Predictions, infer, predict, score
from compressor.recipe import Data
from exporters import Runner, onnx, quantize

SHARES, SAMPLES, RECIPES = (0.0, 0.25, 0.5, 1.0), (128, 512), ("cpu", "trt")
KINDS = ("training", "synthetic", "noise")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class EvaluationSet:
    """What every file is asked. `answers` are the fp32 file's on the test images; the boundary is the network's own."""

    data: Dataset
    limit: int | None
    answers: Predictions
    boundary: BoundarySet


@dataclass(frozen=True)
class Scored:
    """Top-1 in percent, agreements as fractions, of decisions with those of the fp32 network."""

    top1: float
    agreement: float
    boundary_agreement: float


def main() -> None:
    options = arguments()
    data = open_data(Data(name=options.data), device=CPU)
    network = checkpoint.load_network(options.teacher)
    if not network.stated:
        network = checkpoint.check_teacher(network, data).network
    with tempfile.TemporaryDirectory() as place:
        trunk = Path(place) / "fp32.onnx"
        onnx.export(network.module, trunk, input_shape=network.input_shape)
        reference = onnx.load(trunk)
        evaluation = evaluation_of(data, network, reference, options)
        print(heading(options, evaluation))
        print("| recipe | images | of | boundary share | top-1, % | agreement | boundary agreement |")
        print("|---|---|---|---|---|---|---|")
        rows = [row("fp32", "", "", "", [scored(reference, evaluation)])]
        plans = product(options.recipes, options.samples, options.images, options.boundary)
        for recipe, samples, kind, share in plans:
            if kind != "training" and share:
                continue  # nothing is walked to the boundary
            found = []
            for seed in range(options.seeds):
                print(f"{recipe}, {samples} {kind} images, share {share:g}, seed {seed}", file=sys.stderr)
                images = chosen(kind, data, network, samples, share, seed)
                path = Path(place) / "int8.onnx"
                quantize.quantize(trunk, path, images, recipe=recipe, method=options.method)
                found.append(scored(onnx.load(path), evaluation))
            rows.append(row(recipe, str(samples), kind, f"{share:g}", found))
    if options.json is not None:
        facts = {"heading": heading(options, evaluation).strip(), "versions": versions(), "rows": rows}
        options.json.write_text(json.dumps(facts, indent=1) + "\n")


def chosen(
    kind: str, data: Dataset, network: checkpoint.Network, samples: int, share: float, seed: int
) -> NDArray[np.float32]:
    if kind == "noise":
        return np.random.default_rng(seed).random((samples, *network.input_shape), dtype=np.float32)
    if kind == "synthetic":
        return synthetic_images(network.module, network.input_shape, network.classes, samples=samples, seed=seed)
    images, walked = calibration_images(data, network, samples=samples, boundary=share, seed=seed, device=CPU)
    if walked != round(share * samples):
        print(f"only {walked} of {samples} images crossed the boundary", file=sys.stderr)
    return images


def evaluation_of(
    data: Dataset, network: checkpoint.Network, reference: Runner, options: argparse.Namespace
) -> EvaluationSet:
    boundary = boundary_set(
        network.module,
        data.test,
        count=options.boundary_images,
        std=torch.tensor(network.std),
        seed=0,
        device=CPU,
    )
    return EvaluationSet(data, options.limit, predict(reference, data.test, limit=options.limit), boundary)


def scored(runner: Runner, evaluation: EvaluationSet) -> Scored:
    scores = score(predict(runner, evaluation.data.test, limit=evaluation.limit), teacher=evaluation.answers)
    near = boundary_agreement(infer(runner, evaluation.boundary.images), evaluation.boundary.teacher_logits)
    assert scores.agreement is not None
    assert near is not None, "no test image crossed the boundary"
    return Scored(scores.top1, scores.agreement, near)


def heading(options: argparse.Namespace, evaluation: EvaluationSet) -> str:
    images = min(options.limit or len(evaluation.data.test), len(evaluation.data.test))
    return (
        f"{options.teacher.name} on {evaluation.data.name}: {images:,} test images, "
        f"{len(evaluation.boundary.images):,} of them walked to the boundary; "
        f"{options.seeds} seeds, {options.method} ranges; "
        f"ONNX Runtime {next(version for name, version in versions().items() if name.startswith('onnxruntime'))}.\n"
    )


def row(recipe: str, samples: str, kind: str, share: str, found: Sequence[Scored]) -> dict[str, Any]:
    """Print a row of the table, and return it with what each seed gave."""
    cells = (
        spread([each.top1 for each in found], 2),
        spread([each.agreement for each in found], 4),
        spread([each.boundary_agreement for each in found], 4),
    )
    print(f"| {' | '.join((recipe, samples, kind, share, *cells))} |", flush=True)
    return {
        "recipe": recipe,
        "samples": samples,
        "images": kind,
        "share": share,
        "seeds": [asdict(each) for each in found],
    }


def spread(values: Sequence[float], digits: int) -> str:
    """Return mean and standard deviation; of one value there is none."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True, help="a trained network")
    parser.add_argument("--data", required=True, help="its data: cifar10, folder:PATH, ...")
    parser.add_argument("--seeds", type=int, default=5, help="how many draws of calibration images")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=RECIPES)
    parser.add_argument("--samples", nargs="+", type=int, default=SAMPLES, help="numbers of calibration images")
    parser.add_argument("--images", nargs="+", choices=KINDS, default=KINDS[:1], help="which calibration images")
    parser.add_argument("--json", type=Path, help="also write what each seed gave into this file")
    parser.add_argument("--boundary", nargs="+", type=float, default=SHARES, help="shares of boundary samples")
    parser.add_argument("--method", choices=quantize.METHODS, default="minmax", help="how ranges are taken")
    parser.add_argument("--limit", type=int, help="test images to score; default: all")
    parser.add_argument("--boundary-images", type=int, default=1000, help="test images to walk to the boundary")
    return parser.parse_args()


if __name__ == "__main__":
    main()
