"""The benchmarks run, tiny; what they state of results is right, what they say of time is not looked at."""

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from shell import ran

from compressor import models
from compressor.data import open_data
from compressor.measure.scores import predict
from compressor.models import Normalized
from compressor.recipe import Data
from exporters.parity import LIMITS
from exporters.pytorch import TorchRunner

FOLDER = Path(__file__).parent.parent / "benchmarks"
CPU = torch.device("cpu")


@pytest.fixture
def benchmark(monkeypatch):
    """A function that imports one of the benchmarks by its name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


# Memory over an epoch


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_each_kind_of_data_is_read_once_through(benchmark, tmp_path, monkeypatch):
    memory = benchmark("memory")
    monkeypatch.setattr(memory, "child", lambda part, place, options: memory.measured(Path(place), part, options))
    rows = memory.main(["--images", "40", "--size", "8", "--workers", "0", "--out", str(tmp_path)])["rows"]
    assert list(rows) == ["folder", "wds", "making", "kept"]
    assert all(0 < row["own_mb"] <= row["most_mb"] and row["opened_mb"] <= row["most_mb"] for row in rows.values())
    assert len((tmp_path / "memory.md").read_text().splitlines()) == 2 + len(rows)


# All that waits for a GPU


@pytest.fixture
def gpu(benchmark, monkeypatch):
    """The script, whose parts say what they are told to instead of running."""
    script = benchmark("gpu")
    monkeypatch.setattr(script.gpu_parts, "commit", lambda: "c0ffee")
    return script


def stand_in(gpu, monkeypatch, code):
    """Let all parts be a child that runs `code`; `RESULT` is the file to write. Returns the parts that were begun."""
    begun, real = [], subprocess.Popen

    def started(command, **settings):
        begun.append(command[command.index("--part") + 1])
        place = repr(command[command.index("--result") + 1])
        return real([sys.executable, "-S", "-c", code.replace("RESULT", place)], **settings)

    monkeypatch.setattr(gpu.subprocess, "Popen", started)
    return begun


WRITES = "import json; open(RESULT, 'w').write(json.dumps({'state': 'done', 'line': 'all | well', 'values': {}}))"


@pytest.mark.starts
def test_a_part_that_is_done_is_not_done_again(gpu, monkeypatch, tmp_path, capsys):
    begun = stand_in(gpu, monkeypatch, WRITES)
    words = ["--out", str(tmp_path), "--only", "precision"]

    assert gpu.main(words) == gpu.main(words) == 0
    assert begun == ["precision"]
    assert json.loads((tmp_path / "precision.json").read_text())["commit"] == "c0ffee"
    assert (tmp_path / "gpu.md").read_text().splitlines()[2:] == ["| precision | done | all / well |"]
    assert capsys.readouterr().out.splitlines() == ["| precision | done | all / well |"] * 2

    gpu.main([*words, "--again"])
    monkeypatch.setattr(gpu.gpu_parts, "commit", lambda: "bead")  # other code
    gpu.main(words)
    gpu.main([*words, "--dry-run"])
    assert begun == ["precision"] * 4


@pytest.mark.starts
@pytest.mark.parametrize(
    ("code", "state", "line", "ends"),
    [
        ("print('it went wrong'); raise SystemExit(3)", "failed", "ended with code 3: it went wrong", 1),
        ("import time; time.sleep(60)", "unfinished", "stopped after 0 s; the same command goes on", 0),
    ],
)
def test_a_part_that_fails_or_takes_too_long_does_not_end_the_others(
    gpu, monkeypatch, tmp_path, code, state, line, ends
):
    begun = stand_in(gpu, monkeypatch, code)
    monkeypatch.setattr(gpu, "_GRACE_S", 0.5)
    words = ["--out", str(tmp_path), "--only", "steps", "walks", "--seconds", "5" if ends else "0.2"]

    assert gpu.main(words) == ends
    assert begun == ["steps", "walks"]
    assert [json.loads((tmp_path / f"{name}.json").read_text())["state"] for name in begun] == [state] * 2
    assert json.loads((tmp_path / "walks.json").read_text())["line"] == line
    gpu.main(words)
    assert begun == ["steps", "walks"] * 2  # begun again


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_without_a_gpu_a_part_says_so(gpu, tmp_path):
    result = tmp_path / "result.json"
    assert gpu.main(["--out", str(tmp_path), "--part", "steps", "--result", str(result)]) == 0
    assert json.loads(result.read_text()) == {"state": "missing", "line": "PyTorch sees no GPU"}


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["precision", "steps", "walks", "onnxruntime", "tensorrt"])
def test_the_parts_run_on_the_cpu(gpu, tmp_path, name):
    result = tmp_path / "result.json"
    assert gpu.main(["--dry-run", "--out", str(tmp_path), "--part", name, "--result", str(result)]) == 0
    found = json.loads(result.read_text())
    if name == "tensorrt" and found["state"] == "missing":
        assert "TensorRT" in found["line"]
    else:
        assert found["state"] == "done"


def ended(said, code, commands):
    """Return what stands in for a command: it is noted, and ends at once."""

    def run(command, **_):
        commands.append(command)
        return SimpleNamespace(stdout=said, stderr="", returncode=code)

    return run


def test_the_comparison_can_be_planned_and_wants_a_teacher(benchmark, monkeypatch, tmp_path):
    parts, commands = benchmark("gpu_parts"), []
    monkeypatch.setattr(parts.subprocess, "run", ended("planned\n", 0, commands))
    monkeypatch.setattr(parts.signal, "signal", lambda *_: None)
    assert parts.tables(parts.Given(CPU, True, tmp_path)) == ("planned", {"folder": "tables"}, True)
    ran(commands[0][3:])
    with pytest.raises(parts.Missing, match="no teacher is named"):
        parts.tables(parts.Given(CPU, False, tmp_path))


@pytest.mark.parametrize("code", [0, 1])
def test_the_last_line_of_the_tests_is_told(benchmark, monkeypatch, tmp_path, code):
    parts = benchmark("gpu_parts")
    monkeypatch.setattr(parts.subprocess, "run", ended("....\n= 4 of 5 =\n", code, []))
    assert parts.cuda_tests(parts.Given(CPU, False, tmp_path)) == ("4 of 5", {"code": code}, code == 0)


def test_a_walk_by_masks_is_the_published_walk(benchmark, linear, images):
    parts = benchmark("gpu_parts")
    network, pixels, scale = linear(torch.eye(4, 3 * 64) * 8), images(8), torch.tensor([0.2, 0.5, 1.0])
    base = network(pixels).argmax(dim=1)
    target = (base + 1) % 4

    masked = parts.masked_walk(network, pixels, base, target, scale)
    walked = parts.BoundaryAttack()(network, pixels, base, target, scale=scale)

    torch.testing.assert_close(masked, walked.images)
    assert not torch.equal(masked, pixels)


@pytest.mark.parametrize(("loss", "good"), [(1.04, True), (1.06, False)])
def test_half_precision_that_ends_elsewhere_is_told(benchmark, monkeypatch, tmp_path, loss, good):
    parts = benchmark("gpu_parts")
    monkeypatch.setattr(
        parts, "_trained", lambda *_, precision="fp32", **__: (None, loss if precision == "fp16" else 1.0)
    )
    monkeypatch.setattr(parts, "_top1", lambda *_: 90.0)
    assert parts.precision(parts.Given(CPU, False, tmp_path))[2] is good


# Beside others


@pytest.mark.heavy
def test_all_trainings_are_timed_in_one_run(benchmark, tmp_path, capsys):
    peers = benchmark("peers")
    found = peers.main(["--quick", "--out", str(tmp_path)])["rows"]
    ours = {f"{kind} {precision}" for kind in ("KD", "BSS") for precision in ("fp32", "bf16")}
    others = {"KD fp32, plain loop", "KD bf16, plain loop", "BSS fp32, straightforward"}
    assert ours | others == found.keys() - {peers.TORCHDISTILL}
    assert all(each["images_per_s"] > 0 and each["gflop"] > 0 for each in found.values())
    # The same networks on as many images: what is counted is what KD computes, whoever runs it.
    assert found["KD fp32"]["gflop"] == pytest.approx(found["KD fp32, plain loop"]["gflop"], rel=0.05)
    assert "KD over KD fp32, plain loop:" in (tmp_path / "peers.md").read_text()
    assert json.loads((tmp_path / "peers.json").read_text())["rows"].keys() == found.keys()
    assert ("torchdistill is not installed" in capsys.readouterr().out) == (peers.TORCHDISTILL not in found)


def test_rates_shares_and_ratios_follow_from_seconds_and_operations(benchmark):
    peers = benchmark("peers")
    row = peers.row("KD bf16", [0.2, 0.1, 0.4], 10**9, {"fp32": 1e9, "bf16": 2e10}, 64)
    assert row == pytest.approx(
        {"images_per_s": 320, "lowest": 160, "highest": 640, "ms": 200, "gflop": 1, "share_of_peak": 0.25}
    )
    rates = {"KD fp32": 400, "KD bf16": 800, "BSS fp32": 200, "BSS bf16": 500}
    rates |= {"KD fp32, plain loop": 100, "BSS fp32, straightforward": 50}
    assert peers.sentences({name: {"images_per_s": rate} for name, rate in rates.items()}) == [
        "KD over KD fp32, plain loop: 4.00x fp32, 8.00x bf16.",
        "BSS over BSS fp32, straightforward: 4.00x fp32, 10.00x bf16.",
        "KD epochs that a BSS epoch costs: 2.00 in fp32, 1.60 in bf16.",
    ]


def test_steps_take_turns_and_the_first_of_a_turn_are_not_timed(benchmark, monkeypatch):
    rounds, order = benchmark("rounds"), []
    monkeypatch.setattr(rounds, "seconds", lambda step, _device: step() or len(order))
    found = rounds.in_turns(
        {name: (lambda name=name: order.append(name)) for name in "ab"}, rounds=2, each=2, warm=1, device=CPU
    )
    assert "".join(order) == "aaabbb" + "bbbaaa"
    assert found == {"a": [2, 3, 11, 12], "b": [5, 6, 8, 9]}


def test_operations_are_counted_both_ways(benchmark):
    layer, images = torch.nn.Linear(6, 5), torch.ones(4, 6)
    forward = benchmark("rounds").operations(lambda: layer(images))
    assert forward == 2 * 4 * 6 * 5
    assert benchmark("rounds").operations(lambda: layer(images).sum().backward()) == 2 * forward  # images need none


# Growth and overhead


@pytest.mark.heavy
def test_a_point_that_fails_is_named_and_the_others_are_drawn(benchmark, monkeypatch, tmp_path):
    growth, asked = benchmark("growth"), []

    def run(command, **_):
        given = json.loads(command[command.index("--point") + 1])
        asked.append(given)
        if given["batch"] == 1024:
            return SimpleNamespace(returncode=1, stdout="", stderr="Traceback\nMemoryError: too | large\n")
        figures = {"ms": given["batch"] / 10, "epoch_s": 7.0, "memory_mb": given["batch"] ** 2}
        return SimpleNamespace(returncode=0, stdout=f"a warning\n{json.dumps(figures)}\n", stderr="")

    monkeypatch.setattr(growth.subprocess, "run", run)
    rows = growth.main(["--only", "batch", "--out", str(tmp_path)])["rows"]["batch"]

    assert asked == [{**growth.BASE, "batch": batch} for batch in (64, 256, 1024)]
    assert [growth.exponent(rows, figure) for figure in growth.FIGURES] == pytest.approx([1.0, 0.0, 2.0])
    table = (tmp_path / "growth.md").read_text().splitlines()
    assert table[2:] == [
        "| 64 | 6.4 | 7.0 | 4,096.0 |",
        "| 256 | 25.6 | 7.0 | 65,536.0 |",
        "| 1,024 | not measured: MemoryError: too / large |  |  |",
        "| grows with the power | 1.00 | 0.00 | 2.00 |",
    ]
    assert "images a step" in (tmp_path / "growth.svg").read_text()


@pytest.mark.heavy
def test_a_point_is_measured(benchmark, capsys):
    point = {"classes": 12, "images": 64, "size": 8, "attack": 4, "steps": 1, "batch": 16}
    benchmark("growth").main(["--point", json.dumps(point), "--timed", "1", "--warm", "1"])
    found = json.loads(capsys.readouterr().out)
    assert found["epoch_s"] == pytest.approx(found["ms"] / 1000 * 4, rel=0.26)  # 64 images less those of the test split
    assert found["memory_mb"] > 0


@pytest.mark.trains
def test_what_a_training_spends_beside_its_steps_adds_up(benchmark, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    overhead = benchmark("overhead")
    overhead.main(["--epochs", "2", "--set", "student.arch=lenet5", "--began", "0"])
    found = json.loads(capsys.readouterr().out)
    parts = [found[name] for name in overhead.SPENT]
    assert all(part > 0 for part in parts)
    assert sum(parts) <= found["whole"] < found["first_step"]
    assert not list(tmp_path.iterdir())


def test_shares_of_an_epoch_are_spoken(benchmark):
    found = {"imports": 2.0, "first_step": 3.5, "whole": 10.0, "epochs": 4}
    found |= {"training": 9.0, "validation": 0.5, "checkpoints": 0.2, "logs": 0.1}
    first, table, last = benchmark("overhead").spoken(found)
    assert first == "time to the first step: 3.50 s, of which imports 2.00 s"
    assert table.splitlines()[-1] == "| all else | 0.200 | 2.0% |"
    assert last == "validation, logs and checkpoints: 8.0% of the time (goal: under 5%)"


# One image at a time


def test_batch_one_has_every_runtime_with_every_number_of_threads_fastest_first(benchmark, monkeypatch):
    script = benchmark("batch_one")
    asked = {}

    def measured(openers, config):
        asked.update(openers)
        assert config.batch_sizes == (1,)
        return {name: (SimpleNamespace(at=lambda _, ms=ms: ms, on_threads=name),) for ms, name in enumerate(openers, 1)}

    monkeypatch.setattr(script, "measured", measured)
    files = {precision: Path(f"{precision}.onnx") for precision in ("fp32", "fp16", "int8")}
    subject = SimpleNamespace(network=None, input_shape=(3, 32, 32), classes=10)

    rows = script.timed(subject, files, (1, None), SimpleNamespace(batch_sizes=(1,)))

    assert len(rows) == len(asked) == 14
    assert [row.at(50) for _, row in rows] == list(range(1, 15))
    assert asked["ONNX Runtime int8|1"].args == (files["int8"],)
    assert asked["ONNX Runtime int8|1"].keywords == {"threads": 1}
    assert asked["PyTorch bf16|None"].keywords["threads"] is None
    first, *_ = script.table(rows, markdown=False).splitlines()
    assert first.split()[-1] == "3.00x"  # PyTorch is first here, and fp32 of ONNX Runtime third
    lines = script.table(rows, markdown=True).splitlines()
    assert lines[4] == "| ONNX Runtime fp32 | ONNX Runtime fp32|1 | 3.000 ms | 3.000 ms | 1.00x |"
    assert script.counts_of("1,4,auto") == (1, 4, None)


# Families of networks


@pytest.mark.heavy
def test_what_int8_is_refused_for_is_measured_and_listed_by_its_error(benchmark, monkeypatch, tmp_path):
    families = benchmark("families")
    data = open_data(Data(name="digits"), device=CPU)
    network = Normalized(models.build("lenet5", classes=10, input_shape=data.input_shape), data.mean, data.std).eval()
    reference = TorchRunner(network, input_shape=data.input_shape, classes=10)
    before = predict(reference, data.test, limit=len(data.test))
    source = families.source_of(network, reference, data)
    monkeypatch.setitem(LIMITS, "int8", replace(LIMITS["int8"], rms_error=1e-4))

    rows = dict(families.exported(source, "int8 onnx", {"precision": "int8"}, tmp_path, data, before))

    first = rows["int8 onnx"]
    assert "root mean square, more than the 0.0001 that int8 explains" in first["refused"]
    assert 1e-4 < first["rms"] <= first["max"] < 0.3
    assert first["agreement"] > 0.8
    assert "refused" in rows["int8 onnx --max-drop 1"]
    listed = families.refused([{"arch": "lenet5", "exports": rows}]).splitlines()[2:]
    assert listed[0].startswith(f"| lenet5 | int8 onnx | {first['rms']:.3f} | {first['max']:.2f} | ")
    assert families.refused([{"arch": "alexnet", "refused": "too small"}]).count("\n") == 1
