"""Methods and losses of the user's own, as `package.module:name`: who may name them, and what they must be."""

import shutil
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from shell import DISTILL, ran, refused

from compressor import models
from compressor.checkpoint import load_state
from compressor.errors import UsageError
from compressor.methods import METHODS, NotLoaded
from compressor.methods.bss import BSS
from compressor.recipe import build, dump, load

SOURCE = '''
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from compressor.methods import Config, Needs, Objective, Player, Update
from compressor.methods.losses import Feature

open("imported", "w").close()


class Fooling(Config):
    """A discriminator tells the student's logits from the teacher's."""

    kind: str
    hidden: int = 8
    steps: tuple[int, ...] = (1,)
    needs: ClassVar[Needs] = Needs()

    def build(self, setting):
        return Turns(self, setting)


class Turns(Objective):
    def __init__(self, config, setting):
        super().__init__(setting)
        self.critic = nn.Sequential(nn.Linear(setting.classes, config.hidden), nn.ReLU(), nn.Linear(config.hidden, 1))

    def players(self):
        return {"critic": Player(parameters=self.critic.parameters(), lr=0.01, optimizer=torch.optim.Adam)}

    def updates(self, batch, moment):
        logits = self.setting.student(batch.images)
        yield Update({"ce": F.cross_entropy(logits, batch.labels), "fool": -self.critic(logits).mean()})
        real, fake = self.critic(self.setting.teachers[0](batch.images)), self.critic(logits.detach())
        yield Update({"critic": F.softplus(-real).mean() + F.softplus(fake).mean()}, player="critic")


class Squared(Config):
    kind: str
    scale: float = 1.0

    def build(self, setting):
        return lambda student, teacher, labels: self.scale * (student - teacher).square().mean(dim=1)


class Apart(nn.Module):
    def forward(self, student, teacher, batch):
        assert len(student) == len(teacher) == len(batch.labels)
        return (student - teacher).norm(dim=1)


class Bias(Feature):
    def build(self, setting):
        return Apart()


class Plain:
    pass


class Nameless(Config):
    pass


class Idle(Config):
    kind: str
'''


@pytest.fixture
def mine(monkeypatch):
    """Write the user's module into the current folder; its import leaves the file `imported` there."""

    def write():
        Path("mine.py").write_text(SOURCE)
        monkeypatch.delitem(sys.modules, "mine", raising=False)

    yield write
    sys.modules.pop("mine", None)


@pytest.fixture
def recipe(tmp_path, monkeypatch, mine):
    """A function that writes a recipe with a method, in a folder with the user's module."""
    monkeypatch.chdir(tmp_path)
    mine()

    def write(method):
        path = tmp_path / "mine.yaml"
        path.write_text(f"student: {{arch: lenet5-half}}\ndata: {{name: digits}}\nmethod: {method}\n")
        return path

    return write


def test_a_method_of_the_users_own_recipe_is_imported_and_survives_its_copy(recipe):
    path = recipe("{kind: 'mine:Fooling', hidden: 4, steps: [2, 3]}")

    loaded = load(path, trusted=True)

    assert type(loaded.method).__name__ == "Fooling"
    assert (loaded.method.hidden, loaded.method.steps) == (4, (2, 3))
    path.write_text(dump(loaded))
    assert load(path, trusted=True) == loaded


def test_a_stored_recipe_imports_nothing_and_keeps_what_it_says(recipe):
    losses = "soft: {kind: 'mine:Squared', scale: 2}, features: [{kind: 'mine:Bias', student: conv1, teacher: conv1}]"
    for method in ("{kind: 'mine:Fooling', hidden: 4}", f"{{kind: bss, {losses}}}"):
        path = recipe(method)
        stored = load(path)
        assert not Path("imported").exists()
        assert "mine" not in sys.modules
        written = yaml.safe_load(dump(stored))["method"]
        assert {key: written[key] for key in yaml.safe_load(method)}["kind"] == written["kind"]
        path.write_text(dump(stored))
        assert load(path) == stored

    assert isinstance(stored.method, BSS)
    assert isinstance(stored.method.soft, NotLoaded)
    with pytest.raises(UsageError, match="mine:Squared is code of a plug-in, which a stored recipe does not make us"):
        stored.method.soft_loss.build(None)
    load(path, trusted=True)
    assert Path("imported").exists()


def test_what_is_typed_is_the_users_own(recipe):
    values = {"student": {"arch": "a"}, "method": {"kind": "kd"}}
    made = build(values, ["method.kind=mine:Fooling", "method.hidden=3"], base=Path.cwd())
    assert made.method.hidden == 3
    changed = load(recipe("{kind: bss, temperature: 2}"), ["method.kind=mine:Fooling"], trusted=True)
    assert changed.method.hidden == 8
    back = load(recipe("{kind: 'mine:Fooling'}"), ["method.kind=kd"], trusted=True)
    assert back.method.temperature == 3


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ("{kind: 'mine:Fooling', hiden: 4}", "mine.yaml:3: unknown key method.hiden"),
        ("{kind: 'mine:Fooling', hidden: many}", "mine.yaml:3: method.hidden: must be a whole number"),
        ("{kind: 'mine:Foolin'}", "mine.yaml:3: method.kind: mine has no 'Foolin'"),
        ("{kind: 'mein:Fooling'}", "mine.yaml:3: method.kind: there is no module 'mein'"),
        ("{kind: 'mine:Plain'}", "mine:Plain is not a class derived from compressor.methods.Config"),
        ("{kind: 'mine:Nameless'}", "mine:Nameless has no field 'kind: str'"),
        ("{kind: 'mine:Idle'}", "mine:Idle has no 'build'"),
        ("{kind: 'mine:Squared'}", "mine:Squared has no 'needs'"),
        ("{kind: kd, soft: {kind: 'mine:Squared', scal: 1}}", "unknown key method.soft.scal"),
        ("{kind: kd, features: [{kind: 'mine:Bias', student: a}]}", "missing key method.features.0.teacher"),
        (
            "{kind: Fooling}",
            f"method.kind: must be one of {', '.join(map(repr, METHODS))}, 'package.module:name', got \"Fooling\"",
        ),
    ],
)
def test_what_is_no_method_or_loss_is_refused_like_any_key(recipe, method, sentence):
    with pytest.raises(UsageError) as caught:
        load(recipe(method), trusted=True)
    assert sentence in caught.value.message


def test_a_users_method_and_losses_train_a_student_and_are_never_exported(work, tmp_path, monkeypatch, mine):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(work / "runs" / "teacher-1", "runs/teacher-1")
    mine()
    quick = ["--epochs", "1", "--batch-size", "256", "--quiet"]
    losses = [
        "method.soft={kind: 'mine:Squared', scale: 0.01}",
        "method.features=[{kind: fitnet, student: conv2, teacher: conv2}, "
        "{kind: 'mine:Bias', student: fc1, teacher: fc1}]",
    ]
    typed = [part for each in losses for part in ("--set", each)]
    with_critic = ["--method", "mine:Fooling", "--name", "fooling"]
    for arguments in (with_critic, ["--method", "kd", "--name", "losses", "--set", "student.arch=lenet5", *typed]):
        ran([*DISTILL, *arguments, *quick])

    for folder, arch, terms in (
        ("runs/fooling-1", "lenet5-half", {"ce", "fool", "critic"}),
        ("runs/losses-1", "lenet5", {"ce", "kd", "fitnet.conv2", "Bias.fc1"}),
    ):
        row = yaml.safe_load(Path(folder, "metrics.jsonl").read_text())
        assert row["losses"].keys() == terms
        bare = models.build(arch, classes=10, input_shape=(1, 8, 8))
        assert load_file(Path(folder, "student/student.safetensors")).keys() == bare.state_dict().keys()
        saved = load_state(Path(folder, "checkpoints/last.ckpt"))
        assert any("critic" in key or "regressor" in key for key in saved["objective"])

    # That a run folder names it is no reason to import it.
    del sys.modules["mine"]
    Path("imported").unlink()
    refused(["distill", "--resume", "runs/fooling-1"], 4, "names code of its own, mine:Fooling")
    assert not Path("imported").exists()
