"""How fast and how accurate exports are, beside PyTorch and beside each other.

    python benchmarks/exports.py
    python benchmarks/exports.py --teacher resnet20_cifar10.th --data folder:cifar10

ResNet20 on 32x32 images and torchvision's ResNet50 on 224x224; their weights are random, which takes as long as trained
ones. All runtimes take turns, round by round, and medians are compared, so that a busy machine slows all of them alike.
With `--teacher` and `--data`, a trained network is exported as well, and the accuracy of its INT8 file stands beside
that of the fp32 one, on the same test images. Where there is a GPU, the exports are also measured there, beside PyTorch
in fp16. Prints ratios, asserts nothing.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from compressor import checkpoint
from compressor.artifacts.calibration import calibration_images
from compressor.bench import Latency, bench_many
from compressor.data import open_data
from compressor.errors import CompressError
from compressor.machine.hardware import hardware, versions
from compressor.measure.scores import predict, score
from compressor.models import Normalized, build
from compressor.recipe import Bench, Data
from exporters import Engine, Runner, exporter, onnx, openvino, quantize
from exporters.errors import ExporterError
from exporters.pytorch import TorchRunner

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCHES, GPU_BATCHES = (1, 32), (1, 8, 32, 128, 256)
REFERENCE = "ONNX Runtime fp32"
SPEEDUP, DROP = 2.0, 0.5  # the goals for INT8: times as fast as fp32, points of top-1


@dataclass(frozen=True)
class Subject:
    """A network to export. `images` `[N, C, H, W]` in `[0, 1]` are what INT8 is calibrated on."""

    name: str
    network: nn.Module
    input_shape: tuple[int, int, int]
    classes: int
    images: NDArray[np.float32]


FinishedRun = Callable[[], Runner]


def main() -> None:
    options = arguments()
    print(machine(options.threads))
    config = Bench(
        batch_sizes=BATCHES,
        warmup_s=0.05 if options.quick else 0.3,
        duration_s=0.1 if options.quick else 3.0,
        min_iterations=5 if options.quick else 10,
        threads=options.threads,
    )
    for subject in subjects(options):
        with tempfile.TemporaryDirectory() as folder:
            files = exported(subject, Path(folder))
            print(f"\n{subject.name}, {'x'.join(map(str, subject.input_shape))}, p50 on the CPU")
            table(measured(on_cpu(subject, files, options), config), REFERENCE)
            if torch.cuda.is_available():
                print(f"\n{subject.name}, p50 on {torch.cuda.get_device_name()}, CUDA graphs replayed")
                runners = on_gpu(subject, files, Path(folder))
                table(measured(runners, config.model_copy(update={"batch_sizes": GPU_BATCHES})), "PyTorch fp16")
    if not torch.cuda.is_available():
        print("\nno GPU here: the exports for CUDA and TensorRT were not measured")
    if options.teacher is not None:
        accuracy(options)


def subjects(options: argparse.Namespace) -> Iterator[Subject]:
    images = np.random.default_rng(0).random((64, 3, 224, 224), dtype=np.float32)
    for arch, size, classes in (("resnet20", 32, 10), ("torchvision/resnet50", 224, 1000)):
        if options.quick and size > 32:
            print(f"\n{arch} is left out, as is torch.compile: --quick only shows that the rest works")
            continue
        torch.manual_seed(0)
        shape = (3, size, size)
        network = Normalized(build(arch, classes=classes, input_shape=shape), MEAN, STD).eval()
        yield Subject(arch, network, shape, classes, np.ascontiguousarray(images[:, :, :size, :size]))


def exported(subject: Subject, folder: Path) -> dict[str, Path]:
    """Write ONNX files of each precision and the INT8 forms of both recipes; return them by name."""
    files = {name: folder / f"{name}.onnx" for name in ("fp32", "fp16", "int8", "int8 for TensorRT")}
    onnx.export(subject.network, files["fp32"], input_shape=subject.input_shape)
    onnx.convert(files["fp32"], files["fp16"], precision="fp16")
    quantize.quantize(files["fp32"], files["int8"], subject.images, recipe="cpu")
    quantize.quantize(files["fp32"], files["int8 for TensorRT"], subject.images, recipe="trt")
    return files


def on_cpu(subject: Subject, files: Mapping[str, Path], options: argparse.Namespace) -> dict[str, FinishedRun]:
    threads = options.threads
    eager = partial(
        TorchRunner, subject.network, input_shape=subject.input_shape, classes=subject.classes, threads=threads
    )
    runners: dict[str, FinishedRun] = {
        "PyTorch fp32": eager,
        "PyTorch bf16": partial(eager, precision="bf16"),
        "PyTorch fp32, compiled": partial(eager, compile=True),
    }
    if options.quick:
        del runners["PyTorch fp32, compiled"]
    for precision in ("fp32", "fp16", "int8"):
        runners[f"ONNX Runtime {precision}"] = partial(onnx.load, files[precision], threads=threads)
    for precision in ("fp32", "int8"):
        runners[f"OpenVINO {precision}"] = partial(from_ir, files[precision], precision, threads)
    return runners


def from_ir(source: Path, precision: str, threads: int) -> Runner:
    built = openvino.build(source, source.parent, "ir", precision=precision, engine=Engine())
    return openvino.load(built.path, threads=threads)


def on_gpu(subject: Subject, files: Mapping[str, Path], folder: Path) -> dict[str, FinishedRun]:
    eager = partial(
        TorchRunner, subject.network, input_shape=subject.input_shape, classes=subject.classes, device="cuda"
    )
    runners: dict[str, FinishedRun] = {
        "PyTorch fp16": partial(eager, precision="fp16", cuda_graph=True),
        "PyTorch fp32": partial(eager, cuda_graph=True),
    }
    for precision in ("fp32", "fp16"):
        runners[f"ONNX Runtime {precision}"] = partial(onnx.load, files[precision], provider="cuda", cuda_graph=True)
    for name, source in (("fp16", "fp16"), ("int8", "int8 for TensorRT")):
        runners[f"TensorRT {name}"] = partial(from_plan, files[source], folder, name)
    return runners


def from_plan(source: Path, folder: Path, precision: str) -> Runner:
    trt = exporter("trt")
    engine = Engine(batch=(min(GPU_BATCHES), 32, max(GPU_BATCHES)))
    built = trt.build(source, folder, "plan", precision=precision, engine=engine)
    return trt.load(built.path, provider="cuda", cuda_graph=True)


def measured(runners: Mapping[str, FinishedRun], config: Bench) -> dict[str, tuple[Latency, ...]]:
    """Time those runners that work here, in turn; say of the others why they do not."""
    opened = {}
    for name, open_runner in runners.items():
        try:
            runner = open_runner()
            for batch in config.batch_sizes:  # what compiles at the first images does so now
                runner.prepare(np.zeros((batch, *runner.input_shape), np.float32))()
            opened[name] = runner
        except Exception as error:  # each runtime has its own; the others are worth measuring all the same
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            print(f"  {name} is left out: {reason}")
    found = bench_many(list(opened.values()), config)
    return dict(zip(opened, found, strict=True))


def table(latencies: Mapping[str, tuple[Latency, ...]], reference: str) -> None:
    """Print the medians, and how many times as fast as the reference each is."""
    if reference not in latencies:
        print(f"  nothing to compare with: {reference} did not run")
        return
    sizes = [latency.batch for latency in latencies[reference]]
    print(f"  {'':<24}" + "".join(f"{f'batch {size}':>12}{'':>8}" for size in sizes))
    for name, row in latencies.items():
        cells = []
        for latency, base in zip(row, latencies[reference], strict=True):
            ratio = base.at(50) / latency.at(50)
            cells.append(f"{latency.at(50):>9.3f} ms{ratio:>6.2f} x")
        print(f"  {name:<24}{''.join(cells)}{goal(name, row, latencies)}")
    rows = [latency for row in latencies.values() for latency in row]
    loads = [latency.other_load for latency in rows if latency.noisy and latency.other_load is not None]
    if loads:
        print(f"  other processes used up to {max(loads):.0%} of the CPU meanwhile: repeat this on a quiet machine")
    for sentence in sorted({latency.slowed for latency in rows if latency.slowed}):
        print(f"  {sentence}")


def goal(name: str, row: tuple[Latency, ...], latencies: Mapping[str, tuple[Latency, ...]]) -> str:
    """Say of INT8 on a CPU whether it is as much faster than fp32 as it should be."""
    if not name.endswith("int8") or row[0].provider != "cpu":
        return ""
    ratios = [base.at(50) / latency.at(50) for latency, base in zip(row, latencies[REFERENCE], strict=True)]
    return f"   goal {SPEEDUP:g} x: {'met' if min(ratios) >= SPEEDUP else 'missed'}"


def accuracy(options: argparse.Namespace) -> None:
    """Print the top-1 of a trained network's exports on test images, and how much INT8 loses."""
    data = open_data(Data(name=options.data), device=torch.device("cpu"))
    network = checkpoint.load_network(options.teacher)
    if not network.stated:
        network = checkpoint.check_teacher(network, data).network
    images, boundary = calibration_images(data, network, samples=512, boundary=None, seed=0, device=torch.device("cpu"))
    subject = Subject(options.teacher.name, network.module, network.input_shape, network.classes, images)
    limit = 256 if options.quick else None
    scored = min(limit or len(data.test), len(data.test))
    print(
        f"\n{subject.name} on {data.name}, {scored:,} test images; INT8 calibrated on {len(images)} training images, "
        f"{boundary} of them on the boundary"
    )
    with tempfile.TemporaryDirectory() as folder:
        files = exported(subject, Path(folder))
        runners: dict[str, FinishedRun] = {
            "ONNX Runtime fp32": partial(onnx.load, files["fp32"]),
            "ONNX Runtime int8": partial(onnx.load, files["int8"]),
            "OpenVINO fp32": partial(from_ir, files["fp32"], "fp32", options.threads),
            "OpenVINO int8": partial(from_ir, files["int8"], "int8", options.threads),
        }
        reference = None
        for name, open_runner in runners.items():
            try:
                predictions = predict(open_runner(), data.test, limit=limit)
            except (ExporterError, CompressError) as error:
                print(f"  {name} is left out: {error}")
                continue
            reference = reference or predictions
            scores = score(predictions, teacher=reference)
            verdict = ""
            if name.endswith("int8") and scores.drop is not None and scores.drop_error is not None:
                met = "met" if scores.drop <= DROP else "missed"
                verdict = f", drop {scores.drop:+.2f} ± {scores.drop_error:.2f} points   goal {DROP:g}: {met}"
            print(f"  {name:<24}top-1 {scores.top1:6.2f} %, agreement {scores.agreement:.4f}{verdict}")


def machine(threads: int) -> str:
    facts, known = hardware(), versions()
    names = ("torch", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt")
    return (
        f"{facts['cpu']}, {facts['cores']} cores, {threads} threads used; "
        f"{', '.join(f'{name} {known[name]}' for name in names if name in known)}"
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, help="a trained network whose exports are scored as well")
    parser.add_argument("--data", help="its data: cifar10, folder:PATH, ...")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see that it works")
    options = parser.parse_args()
    if (options.teacher is None) != (options.data is None):
        parser.error("--teacher and --data go together")
    return options


if __name__ == "__main__":
    main()
