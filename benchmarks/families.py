"""What an export costs each family of networks: one small member of each of torchvision's, and ten of timm's.

    python benchmarks/families.py OUT --data folder:photos
    python benchmarks/families.py OUT --data folder:photos --only torchvision/resnet18 timm/vit_tiny_patch16_224
    python benchmarks/families.py OUT --table
    python benchmarks/families.py OUT --refused

Each network is trained from random weights for `--seconds` on the images, scaled to `--size`, then exported as the
product does it: fp32, fp16, and INT8 for ONNX Runtime, OpenVINO and TensorRT (whose graph is run by ONNX Runtime). Each
file is proved against the network; of those that are, points of top-1 lost and the agreement on the test images are
measured. Beside them stands ONNX Runtime's own quantiser, with its default settings but one scale a channel, on the
same calibration images. What INT8 is refused is measured all the same, without limits, and built again with
`--max-drop 1`, as the hint says. OUT holds a JSON file a network; those that are there are not made again. `--table`
prints them as Markdown, `--refused` the refused files by their error: what lies just above a limit. Asserts nothing.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import load_model, save_model
from torch import nn
from torch.nn import functional as F

from compressor.artifacts.building import Source, build
from compressor.artifacts.calibration import calibration_images
from compressor.artifacts.proof import NOISE, accuracy_drop, graph_images
from compressor.data import Dataset, open_data
from compressor.errors import InputRejected
from compressor.machine.hardware import hardware, versions
from compressor.measure.scores import Predictions, predict, score
from compressor.models import Normalized
from compressor.models import build as build_network
from compressor.progress import Tell
from compressor.recipe import Calibration, Data, Export
from exporters import Runner, exporter, onnx, parity
from exporters.errors import ExporterError
from exporters.pytorch import TorchRunner

TORCHVISION = (
    *("alexnet", "vgg11_bn", "resnet18", "resnext50_32x4d", "wide_resnet50_2", "squeezenet1_1", "densenet121"),
    *("googlenet", "shufflenet_v2_x0_5", "mobilenet_v2", "mobilenet_v3_small", "mnasnet0_5", "regnet_y_400mf"),
    *("efficientnet_b0", "convnext_tiny", "swin_t", "swin_v2_t", "vit_b_32", "maxvit_t", "inception_v3"),
)
TIMM = (
    *("vit_tiny_patch16_224", "mobilenetv4_conv_small", "ghostnet_100", "repvgg_a0", "edgenext_xx_small"),
    *("mobilevit_xxs", "resnet10t", "fbnetc_100", "pit_ti_224", "poolformer_s12"),
)
NETWORKS = (*(f"torchvision/{name}" for name in TORCHVISION), *(f"timm/{name}" for name in TIMM))
TARGETS: dict[str, dict[str, Any]] = {
    "fp32": {"precision": "fp32"},
    "fp16": {"precision": "fp16"},
    "int8 onnx": {"precision": "int8"},
    "int8 openvino": {"format": "openvino", "precision": "int8"},
    "int8 trt": {"precision": "int8", "quantization": "trt"},
}
OTHER = "int8 of ONNX Runtime's tool"
CALIBRATION = 256
TESTED = 2000  # images
UNLIMITED = {
    name: parity.Limits(max_error=np.inf, rms_error=np.inf, pixel_error=np.inf, min_agreement=0.0)
    for name in parity.LIMITS
}


def main() -> None:
    options = arguments()
    if options.table or options.refused:
        rows = [json.loads(path.read_text()) for path in sorted(options.out.glob("*.json"))]
        print(refused(rows) if options.refused else table(rows))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    for arch in options.only or NETWORKS:
        path = options.out / f"{arch.replace('/', '-')}.json"
        if path.exists():
            continue
        print(arch, flush=True)
        found = measured(arch, options)
        temporary = path.with_suffix(".part")
        temporary.write_text(json.dumps(found, indent=1) + "\n")
        temporary.replace(path)


def measured(arch: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train one network and say what each export of it is worth."""
    data = open_data(Data(name=options.data, image_size=size_of(arch, options.size)), device=torch.device("cpu"))
    torch.manual_seed(0)
    try:
        bare = build_network(arch, classes=len(data.classes), input_shape=data.input_shape)
        network = Normalized(bare, data.mean, data.std)
        steps = train(network, data, options.seconds)
    except (InputRejected, RuntimeError, ValueError, AssertionError) as error:
        return {"arch": arch, "refused": str(error).splitlines()[0]}
    reference = TorchRunner(network.eval(), input_shape=data.input_shape, classes=len(data.classes))
    before = predict(reference, data.test, limit=min(TESTED, len(data.test)))
    known = {"arch": arch, "size": data.input_shape[1], "steps": steps, "top1": score(before).top1}
    print(f"  {steps} steps, top-1 {known['top1']:.1f} %", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        source = source_of(network, reference, data)
        rows = {
            name: row
            for name, keys in TARGETS.items()
            for name, row in exported(source, name, keys, Path(folder), data, before)
        }
        rows[OTHER] = with_its_own_tool(source, Path(folder), data, before)
        print(f"  {OTHER}: {rows[OTHER]}", flush=True)
    return {**known, "exports": rows, "machine": hardware()["cpu"], "versions": versions()}


def size_of(arch: str, wanted: int) -> int:
    """Return the size of the images: some networks take one only, or need many pixels."""
    name = arch.partition("/")[2]
    if name.startswith(("vit_b", "maxvit")):
        return 224
    return 96 if name == "inception_v3" else wanted


def train(network: nn.Module, data: Dataset, seconds: float) -> int:
    """Train until the time is up; return the number of steps."""
    optimiser = torch.optim.AdamW(network.train().parameters(), lr=1e-3, weight_decay=0.02)
    started, steps = time.monotonic(), 0
    for epoch in range(10_000):
        for batch in data.train.batches(64, epoch=epoch, seed=0, augment=True, drop_last=True):
            done = (time.monotonic() - started) / seconds
            if done >= 1:
                return steps
            for group in optimiser.param_groups:
                group["lr"] = 1e-3 * min(1.0, 10 * done + 0.01) * (1 - done)
            with torch.autocast("cpu", torch.bfloat16):
                answer = network(batch.images.contiguous(memory_format=torch.channels_last))
            logits = answer if isinstance(answer, torch.Tensor) else answer[0]  # Inception's helper stands behind
            optimiser.zero_grad()
            F.cross_entropy(logits.float(), batch.labels).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            steps += 1
    return steps


def source_of(network: Normalized, reference: Runner, data: Dataset) -> Source:
    @cache
    def images(_wanted: Calibration) -> tuple[NDArray[np.float32], int]:
        return calibration_images(data, None, samples=CALIBRATION, boundary=None, seed=0, device=torch.device("cpu"))

    return Source(
        name="student",
        trunk=lambda path, opset: onnx.export(network, path, input_shape=reference.input_shape, opset=opset),
        reference=reference,
        images=graph_images(reference, data, seed=0),
        calibration=images,
        drop=accuracy_drop(reference, lambda: data),
        metadata={},
    )


def exported(
    source: Source, name: str, keys: dict[str, Any], folder: Path, data: Dataset, before: Predictions
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the row of a target, and where INT8 is refused, what it is worth and the row of what the hint leads to."""
    row = built(source, keys, folder, data, before)
    if "refused" in row and keys["precision"] == "int8":
        row = built(replace(source, limits=UNLIMITED), keys, folder, data, before) | row
    print(f"  {name}: {row}", flush=True)
    yield name, row
    if "refused" in row and keys["precision"] == "int8":
        again = built(source, {**keys, "max_drop": 1.0}, folder, data, before)
        print(f"  {name} --max-drop 1: {again}", flush=True)
        yield f"{name} --max-drop 1", again


def built(source: Source, keys: dict[str, Any], folder: Path, data: Dataset, before: Predictions) -> dict[str, Any]:
    target = Export.model_validate(keys)
    try:
        artifact = build(source, target, folder, Tell(quiet=True), provider="cpu")
        if artifact.provider is None:
            return {"not run": artifact.note}
        runner = exporter(target.format).load(Path(artifact.path))
    except ExporterError as error:
        return {"refused": error.message}
    kept = {} if artifact.calibration is None else {"kept": len(artifact.calibration.kept_fp32)}
    proof = artifact.parity
    errors = {} if proof is None else {"rms": proof.rms_error, "max": proof.relative_error, "pixels": proof.pixel_error}
    return {**errors, **worth(runner, data, before), **kept}


def worth(runner: Runner, data: Dataset, before: Predictions) -> dict[str, Any]:
    found = score(predict(runner, data.test, limit=len(before.labels)), teacher=before)
    return {"drop": found.drop, "agreement": found.agreement}


def with_its_own_tool(source: Source, folder: Path, data: Dataset, before: Predictions) -> dict[str, Any]:
    """Return what ONNX Runtime's quantiser makes of the same images. It proves nothing and refuses nothing."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    trunk, ready, path = (folder / f"{name}.onnx" for name in ("tool", "tool-ready", "tool-int8"))
    images, _ = source.calibration(Calibration())

    class Images(CalibrationDataReader):  # type: ignore[misc]  # the package has no types
        def __init__(self) -> None:
            self.left = iter([{"input": images[place : place + 1]} for place in range(len(images))])

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(self.left, None)

    try:
        source.trunk(trunk, 20)
        quant_pre_process(trunk, ready)
        quantize_static(ready, path, Images(), per_channel=True)
        disown(path)
        runner = onnx.load(path)
    except Exception as error:  # the tool raises anything
        return {"refused": (str(error).strip() or type(error).__name__).splitlines()[0]}
    errors = parity.check(runner, source.reference, source.images[NOISE:], batch_sizes=())
    return {"rms": next(iter(errors.values())).rms_error, **worth(runner, data, before)}


def disown(path: Path) -> None:
    """Take our metadata off a file that another tool has changed: it says what the file was before."""
    model = load_model(path)
    del model.metadata_props[:]
    save_model(model, path)


def table(rows: list[dict[str, Any]]) -> str:
    """Return the networks as Markdown: points of top-1 lost, and agreement, or why not."""
    columns = (*TARGETS, OTHER)
    lines = [
        f"| network | top-1, % | {' | '.join(columns)} |",
        f"|---|---|{'---|' * len(columns)}",
    ]
    for row in rows:
        if "refused" in row:
            lines.append(f"| {row['arch']} | not trained: {row['refused']} |{' |' * len(columns)}")
            continue
        cells = [cell(row["exports"], name) for name in columns]
        lines.append(f"| {row['arch']}, {row['size']} px | {row['top1']:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def refused(rows: list[dict[str, Any]]) -> str:
    """Return the refused files that were measured as Markdown, those that err least first."""
    found = [
        (known["rms"], row["arch"], name, known)
        for row in rows
        for name, known in row.get("exports", {}).items()
        if "refused" in known and "drop" in known
    ]
    lines = [
        "| network | file | root mean square error | largest | pixel error | agreement | points lost | refused |",
        "|---|---|--:|--:|--:|--:|--:|---|",
    ]
    for rms, arch, name, known in sorted(found, key=lambda each: each[:3]):
        errors = f"{rms:.3f} | {known['max']:.2f} | {known['pixels']:.1f}"
        reason = known["refused"].rpartition(": ")[2]
        lines.append(f"| {arch} | {name} | {errors} | {known['agreement']:.3f} | {known['drop']:+.2f} | {reason} |")
    return "\n".join(lines)


def cell(exports: dict[str, dict[str, Any]], name: str) -> str:
    row = exports.get(name, {})
    if "refused" not in row:
        return numbers(row)
    second = exports.get(f"{name} --max-drop 1", {})
    return "refused" + (f"; `--max-drop 1`: {numbers(second)}" if second else "")


def numbers(row: dict[str, Any]) -> str:
    if "drop" not in row:
        return "refused" if "refused" in row else "not run"
    kept = f", {row['kept']} in fp32" if row.get("kept") else ""
    return f"{row['drop']:+.2f}, {row['agreement']:.3f}{kept}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the results, one JSON file a network")
    parser.add_argument("--data", help="folder:PATH")
    parser.add_argument("--only", nargs="+", metavar="NETWORK", help="torchvision/NAME or timm/NAME")
    parser.add_argument("--seconds", type=float, default=60.0, help="of training a network")
    parser.add_argument("--size", type=int, default=64, help="height and width of the images")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="print what is there as Markdown")
    parser.add_argument("--refused", action="store_true", help="print what was refused as Markdown, by its error")
    options = parser.parse_args()
    if not (options.table or options.refused) and options.data is None:
        parser.error("--data names the images")
    return options


if __name__ == "__main__":
    main()
