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

from compressor.artifacts.formats import exporter_of
from compressor.errors import UsageError
from exporters import EXPORTERS, Engine, Exporter, exporter, provider_on
from exporters.errors import RuntimeMissing, UserError

if TYPE_CHECKING:
    from exporters import Runner

Answer = dict[str, Any]
_DRIVER = "install NVIDIA's driver for this system; nvidia-smi then shows the GPU"
# The logits of a white image by the probe's network: the mean of all pixels, and nothing.
_EXPECTED = (1.0, 0.0)
_SIZE = 8


def main() -> None:
    """Answer for the runtime that is named, in the file that is named, or else on standard output."""
    name, *places = sys.argv[1:]
    text = json.dumps(answer(name))
    if places:
        Path(places[0]).write_text(text, encoding="utf-8")
    else:
        print(text)


def answer(name: str) -> Answer:
    """Try a runtime and return `status`, `found`, `remedy` and `facts` as a `Finding` has them."""
    try:
        return _PROBES[name]() if name in _PROBES else _plugin(*name.split("@"))
    except (RuntimeMissing, UsageError) as error:  # of the latter: no such plug-in
        return _other("absent", error.message, error.hint)
    except UserError as error:
        return _other("broken", error.message, error.hint)
    except Exception as error:
        # Whatever a runtime throws is the answer.
        reason = next(iter(str(error).strip().splitlines()), "")
        return _other("broken", f"{type(error).__name__}: {reason}".rstrip(": ."), None)


def _plugin(format_: str, device: str) -> Answer:
    """Try the exporter that the user's recipe names, on what runs it there."""
    found = exporter_of(format_)
    return _exporter(found, provider_on(found, device))


def _ok(found: str, facts: Mapping[str, Any] | None = None) -> Answer:
    return {"status": "ok", "found": found, "facts": dict(facts or {})}


def _other(status: str, found: str, remedy: str | None, facts: Mapping[str, Any] | None = None) -> Answer:
    return {"status": status, "found": found, "remedy": remedy, "facts": dict(facts or {})}


def _driver() -> Answer:
    from compressor.machine.gpu import driver

    version = driver()
    if version is not None:
        return _ok(version, {"version": version})
    try:
        metadata.version("nvidia-ml-py")
    except metadata.PackageNotFoundError:
        return _other("absent", "NVML cannot be asked without nvidia-ml-py", "pip install 'compressor[nvml]'")
    return _other("absent", "NVML finds no NVIDIA driver", _DRIVER)


def _torch_cpu() -> Answer:
    import torch

    facts = {"version": torch.__version__, "cuda": torch.version.cuda, "threads": torch.get_num_threads()}
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for the CPU only"
    return _convolved("cpu") or _ok(f"{torch.__version__}, {built}, {torch.get_num_threads()} threads", facts)


def _torch_cuda() -> Answer:
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


def _unseen(who: str) -> Answer:
    from compressor.machine.gpu import driver

    version = driver()
    if version is None:
        return _other("absent", f"{who} sees no GPU", _DRIVER)
    remedy = "nvidia-smi shows the newest CUDA that the driver serves; echo $CUDA_VISIBLE_DEVICES what is hidden"
    return _other("broken", f"{who} sees no GPU, though there is the driver {version}", remedy)


def _convolved(device: str) -> Answer | None:
    """Return what is wrong with a convolution on a device, None if it gives what it should."""
    import torch

    image, kernel = torch.ones(1, 1, 3, 3, device=device), torch.ones(1, 1, 2, 2, device=device)
    result = torch.nn.functional.conv2d(image, kernel).cpu()
    return None if torch.equal(result, torch.full((1, 1, 2, 2), 4.0)) else _wrong(result.flatten().tolist())


def _exporter(exporter: Exporter, provider: str) -> Answer:
    """Build a file of a format, and run it on a provider."""
    exporter.require()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        engine = Engine(batch=(1, 1, 1))
        built = exporter.build(_network(place), place, "built", precision="fp32", engine=engine)
        try:
            runner = exporter.load(built.path, provider=provider)
        except RuntimeMissing as error:
            if not exporter.COMPILED:
                return _without_provider(provider, error)
            facts = exporter.versions()  # what compiles need not run where it does
            return _ok(f"{_version(facts)}, builds plans; {error.message}", {**facts, "runs": False})
        wrong, facts = _mistaken(runner), exporter.versions()
    if wrong is not None or not exporter.COMPILED:
        return wrong or _ok(_version(facts), facts)
    return _ok(f"{_version(facts)}, builds and runs plans", {**facts, "runs": True})


def _version(facts: Mapping[str, str | None]) -> str:
    return f"{facts['version']}" + (f", CUDA {facts['cuda']}" if facts.get("cuda") else "")


def _without_provider(provider: str, error: RuntimeMissing) -> Answer:
    from compressor.machine.gpu import driver

    if provider != "cuda" or "built without" in error.message:
        return _other("absent", error.message, error.hint)
    reason = (error.hint or "").partition(":")[0]  # "Failed to load libcurand.so.10", then the loader's own words
    found = f"{error.message}: {reason}" if reason else error.message
    if driver() is None:
        return _other("absent", found, _DRIVER)
    return _other("broken", found, "pip install 'onnxruntime-gpu[cuda,cudnn]'")


def _package(module: str, distribution: str, extra: str) -> Answer:
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
    path = folder / "network.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def _mistaken(runner: Runner) -> Answer | None:
    """Return what is wrong with a runner's answer to a white image, None if it gives what it should."""
    import numpy as np

    (logits,) = runner(np.ones((1, 3, _SIZE, _SIZE), np.float32))
    return None if np.allclose(logits, _EXPECTED, atol=1e-3) else _wrong(logits.tolist())


def _wrong(values: list[float]) -> Answer:
    return _other("broken", f"it computes something else than it should: {values}", None)


_PROBES: dict[str, Callable[[], Answer]] = {
    "driver": _driver,
    "torch-cpu": _torch_cpu,
    "torch-cuda": _torch_cuda,
    **{
        provider.check: partial(_exporter, exporter(name), key)
        for name in EXPORTERS
        for key, provider in exporter(name).PROVIDERS.items()
    },
    "timm": partial(_package, "timm", "timm", "timm"),
    "datasets": partial(_package, "datasets", "datasets", "hf"),
    "webdataset": partial(_package, "webdataset", "webdataset", "wds"),
    "autoattack": partial(_package, "pyautoattack", "pyautoattack", "robust"),
    "tensorboard": partial(_package, "torch.utils.tensorboard", "tensorboard", "tensorboard"),
    "mlflow": partial(_package, "mlflow.tracking", "mlflow", "mlflow"),
}

if __name__ == "__main__":
    main()
