"""How far healthy exports are from their network, and how far those with another mean or standard deviation inside.

    python benchmarks/parity.py --teacher resnet26_cifar10.pt --data folder:cifar10 --normalisation cifar10
    python benchmarks/parity.py --teacher runs/latest/student/student.safetensors --data digits --other mnist

Asks what the proof of an INT8 file asks: test images and images on the boundary. Prints the largest and the root mean
square error of each file in spreads of the logits, its pixel error in steps of 1/255, and the verdict. Asserts nothing.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from compressor import checkpoint
from compressor.artifacts.calibration import calibration_images
from compressor.artifacts.opening import torch_runner
from compressor.artifacts.proof import NOISE, proof_images
from compressor.data import NORMALISATIONS, Dataset, open_data
from compressor.inputs import Inputs
from compressor.recipe import Data
from exporters import Engine, Runner, onnx, openvino, parity, quantize

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Subject:
    """A network and the images that its INT8 files are calibrated on and asked."""

    network: checkpoint.Network
    calibration: NDArray[np.float32]
    asked: NDArray[np.float32]


def main() -> None:
    options = arguments()
    data = open_data(Data(name=options.data, image_size=options.image_size), device=CPU)
    subject = opened(options, data)
    print(f"{options.teacher.name} on {data.name}, {len(subject.asked)} images, the mean and std of {options.other}")
    reference = torch_runner(subject.network, device=CPU)
    with tempfile.TemporaryDirectory() as folder:
        for name, runner in candidates(subject, *NORMALISATIONS[options.other], Path(folder)):
            found = parity.check(runner, reference, subject.asked, batch_sizes=())[len(subject.asked)]
            verdict = parity.verdict(found, runner.precision)
            errors = f"{found.relative_error:8.4f} {found.rms_error:8.4f} {found.pixel_error or 0:8.2f}"
            print(f"  {name:<28}{errors}   {'passes' if verdict is None else verdict}")


def opened(options: argparse.Namespace, data: Dataset) -> Subject:
    network = checkpoint.load_network(options.teacher)
    if options.normalisation is not None:
        network = network.normalised(*NORMALISATIONS[options.normalisation])
    elif not network.stated:
        network = checkpoint.check_teacher(network, data).network
    calibration, _ = calibration_images(data, network, samples=512, boundary=None, seed=0, device=CPU)
    return Subject(network, calibration, proof_images(Inputs(CPU, data, ()), network, seed=0)[NOISE:])


def candidates(
    subject: Subject, mean: tuple[float, ...], std: tuple[float, ...], folder: Path
) -> Iterator[tuple[str, Runner]]:
    """Yield healthy files, then INT8 files of networks whose mean, std or both are others."""
    network = subject.network
    trunk = exported(network, folder / "healthy.onnx")
    onnx.convert(trunk, folder / "fp16.onnx", precision="fp16")
    yield "fp32", onnx.load(trunk)
    yield "fp16", onnx.load(folder / "fp16.onnx")
    for recipe in ("cpu", "trt"):
        path = folder / f"{recipe}.onnx"
        quantize.quantize(trunk, path, subject.calibration, recipe=recipe)
        yield f"int8, {recipe}", onnx.load(path)
    built = openvino.build(folder / "cpu.onnx", folder, "ir", precision="int8", engine=Engine())
    yield "int8, OpenVINO", openvino.load(built.path)
    for name, changed in (("mean", (mean, network.std)), ("std", (network.mean, std)), ("mean and std", (mean, std))):
        source = exported(network.normalised(*changed), folder / "other.onnx")
        quantize.quantize(source, folder / "other.int8.onnx", subject.calibration, recipe="cpu")
        yield f"int8, another {name}", onnx.load(folder / "other.int8.onnx")


def exported(network: checkpoint.Network, path: Path) -> Path:
    onnx.export(network.module, path, input_shape=network.input_shape)
    return path


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True, help="a trained network")
    parser.add_argument("--data", required=True, help="its data: cifar10, folder:PATH, ...")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--normalisation", choices=NORMALISATIONS, help="its own, where the file does not say")
    parser.add_argument("--other", choices=NORMALISATIONS, default="imagenet", help="the one that is wrong")
    return parser.parse_args()


if __name__ == "__main__":
    main()
