"""Damaged files at every reader: each is read or refused in a sentence; a traceback or a hang is a fault.

    python benchmarks/fuzz.py [--mutants 1000] [--seed 0] [--readers torch,safetensors]

Each mutant is a good file with bytes flipped, replaced, cut or repeated. It is read in a process of its own, which is
ended when it takes longer than the limit. Prints a table.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import multiprocessing.connection
import os
import random
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from compressor import checkpoint, models
from compressor.pipeline.inspect import inspect
from exporters import onnx
from exporters.errors import UserError

LIMIT = 60  # seconds that one mutant may take
_ARCH, _SHAPE = "resnet8-conv", (3, 32, 32)
_NUMBERS = (0, 1, 2, 127, 128, 255)


@dataclass(frozen=True)
class Reader:
    """How a good file is written to a path, and what reads it."""

    suffix: str
    write: Callable[[Path], None]
    read: Callable[[Path], object]


def mutants(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yield damaged copies; those of an archive have a damaged member as often as a damaged frame."""
    draw = random.Random(seed)
    for number in range(count):
        if content.startswith(b"PK") and number % 2:
            yield _with_damaged_member(content, draw)
        else:
            yield damaged(content, draw)


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Return a copy with one to four damages, half of them near the start or the end, where the structure is."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        if not data:
            break
        at = draw.choice([draw.randrange(len(data)), draw.randrange(min(512, len(data))), -draw.randrange(1, 200)])
        at %= len(data)
        length = draw.randint(1, 16)
        match draw.randrange(6):
            case 0:
                data[at] ^= 1 << draw.randrange(8)
            case 1:
                data[at] = draw.choice(_NUMBERS)
            case 2:
                data[at : at + length] = draw.randbytes(length)
            case 3:
                del data[at:]
            case 4:
                del data[at : at + length]
            case _:
                data[at:at] = data[at : at + length] * draw.randint(1, 3)
    return bytes(data)


def _with_damaged_member(content: bytes, draw: random.Random) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "source", Path(folder) / "target"
        source.write_bytes(content)
        with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as copy:
            names = archive.namelist()
            small = [name for name in names if archive.getinfo(name).file_size < 200_000] or names
            chosen = draw.choice(small)
            for name in names:
                member = archive.read(name)
                copy.writestr(name, damaged(member, draw) if name == chosen else member)
        return target.read_bytes()


def outcome(reader: Reader, path: Path) -> str:
    """Return what became of one file: `accepted`, `rejected` in a sentence, or the name of the exception."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a warning on the terminal is no sentence
            reader.read(path)
    except UserError as error:
        return "rejected" if error.exit_code in (2, 4) else f"exit {error.exit_code}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:100]}"
    return "accepted"


def readers() -> dict[str, Reader]:
    """Return the readers of checkpoints by name."""
    torch.manual_seed(0)
    network = models.build(_ARCH, classes=10, input_shape=_SHAPE).eval()
    state = network.state_dict()
    layers = nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    small = nn.Sequential(*layers, nn.Linear(16, 10)).eval()
    fact = argparse.Namespace(lr=0.1)
    load = checkpoint.load_network
    return {
        "torch": Reader(".pt", lambda path: torch.save({"state_dict": state, "args": fact}, path), load),
        "pickle": Reader(".th", lambda path: torch.save(state, path, _use_new_zipfile_serialization=False), load),
        "safetensors": Reader(".safetensors", lambda path: _student(path, network), load),
        "card": Reader(".json", lambda path: path.write_text(_card(network)), lambda path: _with_card(path, network)),
        "last.ckpt": Reader(".ckpt", lambda path: checkpoint.save_state(path, {"epoch": 1, "student": state}),
                            checkpoint.load_state),
        "TorchScript": Reader(".pt", lambda path: _scripted(path, small), load),
        "torch.export": Reader(".pt2", lambda path: _exported(path, small), load),
        "ONNX": Reader(".onnx", lambda path: onnx.export(small, path, input_shape=_SHAPE), _foreign),
        "inspect": Reader(".pt", lambda path: torch.save({"state_dict": state, "args": fact}, path), inspect),
    }  # fmt: skip


def _foreign(path: Path) -> object:
    """Read an ONNX file as `validate` does: brought to the form of runners, tried in a process of its own, opened."""
    copy = path.with_name(f"{path.stem}-adapted.onnx")
    changed = onnx.adapt(path, copy, image=_SHAPE)
    return checkpoint.open_graph(path if changed is None else copy)


def _student(path: Path, network: nn.Module) -> None:
    checkpoint.save_student(
        path, network, arch=_ARCH, classes=10, class_names=None, input_shape=_SHAPE, mean=(0.5,) * 3, std=(0.5,) * 3,
        data="cifar10",
    )  # fmt: skip


def _card(network: nn.Module) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        _student(path, network)
        return str(checkpoint.open_tensors(path).metadata["compressor"])


def _with_card(path: Path, network: nn.Module) -> object:
    """Read a student whose card is the text of `path`."""
    from safetensors.torch import save_file

    student = path.with_suffix(".safetensors")
    text = path.read_bytes().decode("utf-8", "replace")
    save_file(dict(network.state_dict()), student, metadata={"compressor": text})
    return checkpoint.load_network(student)


def _scripted(path: Path, network: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript; users' files remain
        torch.jit.trace(network, torch.rand(2, *_SHAPE)).save(str(path))


def _exported(path: Path, network: nn.Module) -> None:
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(network, (torch.rand(2, *_SHAPE),), dynamic_shapes=shapes), path)


def _count(name: str, count: int, seed: int) -> Counter[str]:
    """Return how many mutants of one reader ended in each way; the first is the good file, which must be accepted."""
    reader = readers()[name]
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{reader.suffix}"
        reader.write(path)
        content = path.read_bytes()
        assert outcome(reader, path) == "accepted", f"the good file of {name} is not read"
        context = multiprocessing.get_context("fork")
        for mutant in mutants(content, count, seed):
            path.write_bytes(mutant)
            receiving, sending = context.Pipe(duplex=False)
            process = context.Process(target=_one, args=(reader, path, sending))
            process.start()
            sending.close()
            try:
                found[receiving.recv() if receiving.poll(LIMIT) else "hang"] += 1
            except EOFError:
                found["process broke down"] += 1
            process.kill()
            process.join()
    return found


def _one(reader: Reader, path: Path, sending: multiprocessing.connection.Connection) -> None:
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    sending.send(outcome(reader, path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--readers", default=",".join(readers()))
    options = parser.parse_args()
    torch.set_num_threads(1)
    models.explain({"w": torch.ones(1)})  # looks all architectures up once, so that no mutant's process has to
    print(f"{'reader':14}{'mutants':>8}{'rejected':>10}{'accepted':>10}{'tracebacks':>12}{'hangs':>7}")
    faults: dict[str, dict[str, int]] = {}
    for name in options.readers.split(","):
        found = _count(name, options.mutants, options.seed)
        other = {key: value for key, value in found.items() if key not in ("rejected", "accepted", "hang")}
        print(
            f"{name:14}{sum(found.values()):8}{found['rejected']:10}{found['accepted']:10}"
            f"{sum(other.values()):12}{found['hang']:7}", flush=True,
        )  # fmt: skip
        faults |= {name: other} if other else {}
    if faults:
        print(json.dumps(faults, indent=2))


if __name__ == "__main__":
    main()
