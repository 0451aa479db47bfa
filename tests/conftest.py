"""Tiny networks, images and finished runs that every test may use. No file outside the repository is needed."""

import gc
import os
import shutil

import layers
import pytest
import torch
from hypothesis import HealthCheck, settings
from layers import trains
from shell import DISTILL, QUICK, ran
from torch import nn

# No test depends on the time that it takes. A pull request is judged by the same examples each time.
settings.register_profile(
    "suite", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("suite")


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items):
    layers.mark_by_fixtures(items)


def pytest_collection_finish():
    # What torch and the runtimes brought along stays to the end: no collection needs to walk it again.
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    with layers.running(item):
        return (yield)


@pytest.fixture(autouse=True, scope="session")
def _watched():
    with layers.watched():
        yield


class TinyClassifier(nn.Module):
    """Two convolutions with BatchNorm and a linear head: `[B, C, H, W]` to `[B, K]`."""

    def __init__(self, classes: int = 4, channels: int = 3, width: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.head = nn.Linear(width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images).mean(dim=(2, 3)))


class LinearClassifier(nn.Module):
    """Logits are linear in the pixels, so that every boundary is a known hyperplane."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(len(weight)) if bias is None else bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) @ self.weight.T + self.bias


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _not_on_github(monkeypatch):
    """Commands that a test types must not write into the summary of the job that runs the tests."""
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def tiny():
    """A function that makes a small trained-looking classifier (BatchNorm statistics are not the initial ones)."""

    def make(classes: int = 4, channels: int = 3, width: int = 8, seed: int = 0) -> TinyClassifier:
        torch.manual_seed(seed)
        network = TinyClassifier(classes, channels, width)
        network.train()
        with torch.no_grad():
            for _ in range(3):
                network(torch.rand(16, channels, 8, 8))
        return network.eval()

    return make


@pytest.fixture
def linear():
    """A function that makes a linear classifier from a weight `[K, C*H*W]`."""
    return LinearClassifier


@pytest.fixture
def images():
    """A function that makes images `[B, C, H, W]` in `[0, 1]` from a seed."""

    def make(count: int = 8, channels: int = 3, size: int = 8, seed: int = 0) -> torch.Tensor:
        return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(seed))

    return make


@pytest.fixture(scope="session")
@trains
def work(tmp_path_factory):
    """A folder with a teacher of the digits (`runs/teacher-1`) and its student (`runs/student-1`), exported.

    Every test reads it and none writes to it: `here` is a copy.
    """
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ran(["train", "--arch", "lenet5", "--data", "digits", "--epochs", "10", "--name", "teacher", *QUICK])
        ran([*DISTILL, "--epochs", "6", "--name", "student", *QUICK])
        ran(["export", "--format", "onnx"])
    return folder


@pytest.fixture(scope="session")
@trains
def taught(tmp_path_factory):
    """A teacher of the digits, trained for a moment; no test writes to it."""
    folder = tmp_path_factory.mktemp("taught")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ran(["train", "--arch", "lenet5", "--data", "digits", "--epochs", "6", "--out", "teacher", *QUICK, "--quiet"])
    return folder / "teacher"


@pytest.fixture
def here(work, tmp_path, monkeypatch):
    """A copy of that folder, as the working directory. The student's recipe still names the first teacher."""
    folder = tmp_path / "here"
    shutil.copytree(work / "runs", folder / "runs", symlinks=True)
    monkeypatch.chdir(folder)
    return folder
