"""The answering side: one runtime, made to compute something small whose result is known, in a process of its own.

`python -m compressor.doctor.probes NAME` prints what `compress doctor` would be told.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporters.errors import ExporterError, RuntimeMissing

if TYPE_CHECKING:
    from exporters import Runner

FilePredictions = dict[str, Any]
_DRIVER = "install NVIDIA's driver for this system; nvidia-smi then shows the GPU"
# The logits of a white image by the probe's network: the mean of all pixels, and nothing.
_EXPECTED = (1.0, 0.0)
_SIZE = 8


def main() -> None:
    """FilePredictions for the runtime that is named, in the file that is named, or else on standard output."""
    name, *places = sys.argv[1:]
    text = json.dumps(answer(name))
    if places:
        Path(places[0]).write_text(text, encoding="utf-8")
    else:
        print(text)


def answer(name: str) -> FilePredictions:
    """Try a runtime and return `status`, `found`, `remedy` and `facts` as a `Finding` has them."""
    try:
        return _PROBES[name]()
    except RuntimeMissing as error:
        return _other("absent", error.message, error.hint)
    except ExporterError as error:
        return _other("broken", error.message, error.hint)
    except Exception as error:
        # Whatever a runtime throws is the answer.
        reason = next(iter(str(error).strip().splitlines()), "")
        return _other("broken", f"{type(error).__name__}: {reason}".rstrip(": ."), None)


def _ok(found: str, facts: Mapping[str, Any] | None = None) -> FilePredictions:
    return {"status": "ok", "found": found, "facts": dict(facts or {})}


def _other(status: str, found: str, remedy: str | None, facts: Mapping[str, Any] | None = None) -> FilePredictions:
    return {"status": status, "found": found, "remedy": remedy, "facts": dict(facts or {})}


def _driver() -> FilePredictions:
    from compressor.machine.gpu import driver

    version = driver()
    if version is not None:
        return _ok(version, {"version": version})
    try:
        metadata.version("nvidia-ml-py")
    except metadata.PackageNotFoundError:
        return _other("absent", "NVML cannot be asked without nvidia-ml-py", "pip install 'compressor[nvml]'")
    return _other("absent", "NVML finds no NVIDIA driver", _DRIVER)


def _torch_cpu() -> FilePredictions:
    import torch

    facts = {"version": torch.__version__, "cuda": torch.version.cuda, "threads": torch.get_num_threads()}
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for the CPU only"
    return _convolved("cpu") or _ok(f"{torch.__version__}, {built}, {torch.get_num_threads()} threads", facts)


def _torch_cuda() -> FilePredictions:
    import torch

    if torch.version.cuda is None:
        return _other("absent", f"torch {torch.__version__} is built for the CPU only", "pip install --upgrade torch")
    if not torch.cuda.is_available():
        return _unseen(f"torch {torch.__version__}, built for CUDA {torch.version.cuda},")
    count = torch.cuda.device_count()
    gpus = [torch.cuda.get_device_properties(index) for index in range(count)]
    names = [f"{gpu.name} ({gpu.total_memory / 1e9:.0f} GB, sm{gpu.major}{gpu.minor})" for gpu in gpus]
    cudnn = torch.backends.cudnn.version()
    for index in range(count):
        if (wrong := _convolved(f"cuda:{index}")) is not None:
            return wrong
    found = f"{', '.join(names)}; CUDA {torch.version.cuda}, cuDNN {cudnn}"
    return _ok(found, {"devices": count, "names": [gpu.name for gpu in gpus], "cudnn": cudnn})


def _unseen(who: str) -> FilePredictions:
    from compressor.machine.gpu import driver

    version = driver()
    if version is None:
        return _other("absent", f"{who} sees no GPU", _DRIVER)
    remedy = "nvidia-smi shows the newest CUDA that the driver serves; echo $CUDA_VISIBLE_DEVICES what is hidden"
    return _other("broken", f"{who} sees no GPU, though there is the driver {version}", remedy)


def _convolved(device: str) -> FilePredictions | None:
    """Return what is wrong with a convolution on a device, None if it gives what it should."""
    import torch

    image, kernel = torch.ones(1, 1, 3, 3, device=device), torch.ones(1, 1, 2, 2, device=device)
    result = torch.nn.functional.conv2d(image, kernel).cpu()
    return None if torch.equal(result, torch.full((1, 1, 2, 2), 4.0)) else _wrong(result.flatten().tolist())


def _onnxruntime(provider: str) -> FilePredictions:
    import onnxruntime
    from onnxruntime.capi import build_and_package_info as build

    from exporters import onnx

    cuda = getattr(build, "cuda_version", "") or None
    facts = {"version": onnxruntime.__version__, "cuda": cuda}
    with tempfile.TemporaryDirectory() as folder:
        try:
            runner = onnx.load(_network(Path(folder)), provider=provider)
        except RuntimeMissing as error:
            return _without_provider(provider, error)
        return _mistaken(runner) or _ok(f"{onnxruntime.__version__}" + (f", CUDA {cuda}" if cuda else ""), facts)


def _without_provider(provider: str, error: RuntimeMissing) -> FilePredictions:
    from compressor.machine.gpu import driver

    if provider != "cuda" or "built without" in error.message:
        return _other("absent", error.message, error.hint)
    reason = (error.hint or "").partition(":")[0]  # "Failed to load libcurand.so.10", then the loader's own words
    found = f"{error.message}: {reason}" if reason else error.message
    if driver() is None:
        return _other("absent", found, _DRIVER)
    return _other("broken", found, "pip install 'onnxruntime-gpu[cuda,cudnn]'")


def _openvino() -> FilePredictions:
    from exporters import openvino

    with tempfile.TemporaryDirectory() as folder:
        runner = openvino.load(_network(Path(folder)))
        return _mistaken(runner) or _ok(metadata.version("openvino"), {"version": metadata.version("openvino")})


def _tensorrt(name: str) -> FilePredictions:
    """Build a plan, and run it where there is a GPU."""
    from exporters import Engine, tensorrt

    plans: tensorrt.PlanExporter = getattr(tensorrt, name)
    version = plans.flavour.require()
    facts = {"version": version}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        built = plans.build(_network(place), place, "probe", precision="fp32", engine=Engine(batch=(1, 1, 1)))
        try:
            runner = plans.load(built.path, provider="cuda")
        except RuntimeMissing as error:
            return _ok(f"{version}, builds plans; {error.message}", {**facts, "runs": False})
        return _mistaken(runner) or _ok(f"{version}, builds and runs plans", {**facts, "runs": True})


def _package(module: str, distribution: str, extra: str) -> FilePredictions:
    try:
        import_module(module)
    except ImportError as error:
        if error.name != module.partition(".")[0]:
            raise
        return _other("absent", f"{distribution} is not installed", f"pip install 'compressor[{extra}]'")
    version = metadata.version(distribution)
    return _ok(version, {"version": version})


def _network(folder: Path) -> Path:
    """Write a classifier of two classes: a convolution over the whole image."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    pixels = 3 * _SIZE * _SIZE
    weight = np.zeros((2, 3, _SIZE, _SIZE), np.float32)
    weight[0] = 1 / pixels
    nodes = [
        helper.make_node("Conv", ["images", "weight"], ["maps"]),
        helper.make_node("Flatten", ["maps"], ["logits"]),
    ]
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, _SIZE, _SIZE])
    returned = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])
    graph = helper.make_graph(nodes, "probe", [given], [returned], [numpy_helper.from_array(weight, "weight")])
    path = folder / "probe.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def _mistaken(runner: Runner) -> FilePredictions | None:
    """Return what is wrong with a runner's answer to a white image, None if it gives what it should."""
    import numpy as np

    (logits,) = runner(np.ones((1, 3, _SIZE, _SIZE), np.float32))
    return None if np.allclose(logits, _EXPECTED, atol=1e-3) else _wrong(logits.tolist())


def _wrong(values: list[float]) -> FilePredictions:
    return _other("broken", f"it computes something else than it should: {values}", None)


_PROBES: dict[str, Callable[[], FilePredictions]] = {
    "driver": _driver,
    "torch-cpu": _torch_cpu,
    "torch-cuda": _torch_cuda,
    "onnxruntime-cpu": partial(_onnxruntime, "cpu"),
    "onnxruntime-cuda": partial(_onnxruntime, "cuda"),
    "onnxruntime-tensorrt": partial(_onnxruntime, "tensorrt"),
    "openvino": _openvino,
    "tensorrt": partial(_tensorrt, "TENSORRT"),
    "tensorrt-rtx": partial(_tensorrt, "TENSORRT_RTX"),
    "timm": partial(_package, "timm", "timm", "timm"),
    "tensorboard": partial(_package, "torch.utils.tensorboard", "tensorboard", "tensorboard"),
    "mlflow": partial(_package, "mlflow.tracking", "mlflow", "mlflow"),
}

if __name__ == "__main__":
    main()
