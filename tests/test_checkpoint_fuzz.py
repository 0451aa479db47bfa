"""Damaged checkpoints end in a sentence at every reader; `benchmarks/fuzz.py` does the same with many more."""

import importlib.util
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from compressor import checkpoint
from compressor.errors import InputRejected

_SPEC = importlib.util.spec_from_file_location("fuzz", Path(__file__).parent.parent / "benchmarks" / "fuzz.py")
assert _SPEC is not None
fuzz = importlib.util.module_from_spec(_SPEC)
sys.modules["fuzz"] = fuzz  # where its dataclass looks for its own module
_SPEC.loader.exec_module(fuzz)
READERS = {name: reader for name, reader in fuzz.readers().items() if name != "inspect"}


@pytest.fixture(autouse=True)
def _without_torchvision(monkeypatch):
    """Looking for damaged tensors in all of torchvision takes seconds each."""
    monkeypatch.setattr("compressor.models.infer.torchvision_zoo.names", lambda: ())


IN_A_CHILD = ("TorchScript", "torch.export", "ONNX")  # tried in a process of its own


@pytest.mark.heavy
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.starts] if name in IN_A_CHILD else []) for name in READERS]
)
def test_damaged_files_are_read_or_refused_in_a_sentence(name, tmp_path, capfd):
    reader = READERS[name]
    path = tmp_path / f"x{reader.suffix}"
    reader.write(path)
    assert fuzz.outcome(reader, path) == "accepted"
    content = path.read_bytes()
    capfd.readouterr()

    found = []
    for mutant in fuzz.mutants(content, 40, seed=1):
        path.write_bytes(mutant)
        found.append(fuzz.outcome(reader, path))

    assert set(found) <= {"accepted", "rejected"}
    assert found.count("rejected") >= 10
    assert capfd.readouterr().out == ""


def test_a_traceback_would_be_told(tmp_path):
    def breaks(path):
        raise IndexError("list index out of range")

    broken = fuzz.Reader(".pt", lambda path: None, breaks)

    assert fuzz.outcome(broken, tmp_path) == "IndexError: list index out of range"


def test_a_state_that_lacks_a_key_is_refused(tmp_path):
    torch.save({"kind": "compressor training state", "version": 1}, tmp_path / "last.ckpt")

    with pytest.raises(InputRejected, match="it has no 'state'"):
        checkpoint.load_state(tmp_path / "last.ckpt")
    with (
        pytest.raises(InputRejected, match=r"last\.ckpt is damaged or cut off: it has no 'epoch'"),
        checkpoint.guarded(tmp_path / "last.ckpt"),
    ):
        {}["epoch"]


def test_an_archive_that_unpacks_to_far_more_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/constants.pkl", b"\x80\x02N.")
        archive.writestr("x/data.pkl", bytes(50_000_000))

    with pytest.raises(InputRejected, match="unpacks to 50,000,004 bytes"):
        checkpoint.load_network(tmp_path / "x.pt")


def test_a_list_that_is_nested_into_very_many_is_looked_into_once(tmp_path):
    content = [torch.ones(1)]
    for _ in range(8):
        content = [content] * 1000
    torch.save(content, tmp_path / "x.pt")

    with pytest.raises(InputRejected, match="holds no weights"):
        checkpoint.read_tensors(tmp_path / "x.pt")
