import json
import os
import subprocess
import sys
from functools import partial
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from shell import ran, refused, typed

import exporters.onnx
import exporters.openvino
from compressor import doctor
from compressor.doctor import Finding, clashes, machine, probe, probes, probing, surroundings
from compressor.doctor.needs import demand
from compressor.errors import EnvironmentMissing
from compressor.machine import gpu, hardware
from compressor.recipe import build
from exporters.errors import ArtifactRejected, RuntimeMissing

STAND_IN = """
import json, os, signal, sys, time
from pathlib import Path
name, place = sys.argv[1:]
print("chatter")
print("more chatter", file=sys.stderr)
if name == "torch-cpu":
    os.kill(os.getpid(), signal.SIGSEGV)
if name == "torch-cuda":
    Path(os.environ["MARK"]).write_text(str(os.getpid()))
    time.sleep(60)
if name == "openvino":
    sys.exit("no such symbol")
if name == "driver":
    Path("left.behind").write_text("")
Path(place).write_text(json.dumps({"status": "ok", "found": os.getcwd(), "facts": {"torch": "torch" in sys.modules}}))
"""


def finding(check, status="ok", **more):
    return Finding(check, probing.TITLES.get(check, check), status, f"{check} is {status}", **more)


def findings(**statuses):
    """What a look at a machine without a GPU would give, but for what is stated; `torch_cuda` is `torch-cuda`."""
    usual = dict.fromkeys(probing.RUNTIMES, "ok")
    usual |= dict.fromkeys(("driver", "torch-cuda", "onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt"), "absent")
    usual |= {name.replace("_", "-"): status for name, status in statuses.items()}
    remedies = {"absent": "plug it in", "broken": "mend it", "ok": None}
    return tuple(finding(check, status, remedy=remedies[status]) for check, status in usual.items())


def recipe(**values):
    return build(
        {"student": {"arch": "lenet5"}, "method": {"kind": "ce"}, "data": {"name": "digits"}} | values, base=Path.cwd()
    )


def missing(found):
    return {each.check: each.needed for each in found if each.missing}


@pytest.fixture
def without_gpu(monkeypatch):
    monkeypatch.setattr(gpu, "driver", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """Another module in the place of the probes."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MARK", str(tmp_path / "mark"))
    monkeypatch.setattr(probing, "_MODULE", "stand_in")
    return tmp_path


@pytest.fixture
def seen(monkeypatch):
    """A function that lets the command find what it is given."""

    def see(found):
        monkeypatch.setattr(doctor, "examine", lambda: found)

    return see


# A probe is a process of its own.


@pytest.mark.starts
def test_what_a_probe_finds_comes_back_in_the_order_of_the_names(stand_in, capfd):
    found = probe(["timm", "onnxruntime-cpu", "mlflow"])

    assert [each.check for each in found] == ["timm", "onnxruntime-cpu", "mlflow"]
    assert [each.title for each in found] == ["timm", "ONNX Runtime, cpu", "MLflow"]
    assert {each.status for each in found} == {"ok"}
    assert [each.needed for each in found] == [(), ("everything",), ()]
    assert capfd.readouterr() == ("", "")


@pytest.mark.starts
def test_a_crash_is_a_finding_and_others_still_answer(stand_in):
    crashed, refused_, fine = probe(["torch-cpu", "openvino", "tensorrt"])

    assert (crashed.status, crashed.found) == ("broken", "its process was ended by SIGSEGV")
    assert crashed.missing
    assert (refused_.status, refused_.found) == ("broken", "its process ended with exit code 1: no such symbol")
    assert refused_.remedy == "python -m stand_in openvino"
    assert not refused_.missing
    assert fine.status == "ok"


@pytest.mark.starts
def test_a_hang_is_ended_and_a_finding(stand_in):
    (hung,) = probe(["torch-cuda"], timeout_s=1.0)

    assert (hung.status, hung.found) == ("broken", "it did not answer within 1 s")
    with pytest.raises(ProcessLookupError):
        os.kill(int((stand_in / "mark").read_text()), 0)


@pytest.mark.starts
def test_probes_run_elsewhere_and_leave_nothing_behind(stand_in, monkeypatch, tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    (here / "json.py").write_text("raise SystemExit('not the one of Python')")
    monkeypatch.chdir(here)
    (found,) = probe(["driver"])

    assert found.status == "ok"
    assert not Path(found.found).exists()
    assert [path.name for path in here.iterdir()] == ["json.py"]


@pytest.mark.starts
def test_asking_imports_no_runtime():
    heavy = "{'torch', 'onnx', 'numpy'} & set(sys.modules)"
    code = f"import sys, compressor.doctor, compressor.cli.doctor; print(sorted({heavy}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.strip() == "[]"


@pytest.mark.starts
def test_a_real_probe_answers_through_its_process():
    (found,) = probe(["onnxruntime-cpu"])

    assert found.status == "ok", found.found
    assert found.found.startswith(metadata.version("onnxruntime-gpu") if "cuda" in found.facts else "")
    assert found.facts["version"] in found.found


def test_a_probe_by_hand_prints_its_answer(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["probes", "timm"])
    monkeypatch.setitem(probes._PROBES, "timm", lambda: {"status": "ok"})
    probes.main()

    assert json.loads(capsys.readouterr().out) == {"status": "ok"}


def test_every_title_has_its_probe():
    assert set(probing.TITLES) == set(probes._PROBES)


# What the probes find.


@pytest.mark.parametrize("name", ["torch-cpu", "onnxruntime-cpu", "openvino"])
def test_runtimes_on_the_cpu_compute_what_they_should(name):
    pytest.importorskip(name.partition("-")[0])
    answer = probes.answer(name)

    assert answer["status"] == "ok", answer
    assert answer["facts"]["version"] in answer["found"]


@pytest.mark.parametrize(
    ("name", "module"),
    [("onnxruntime-cpu", exporters.onnx), ("onnxruntime-cuda", exporters.onnx), ("openvino", exporters.openvino)],
)
@pytest.mark.parametrize(("first", "status"), [(1.0, "ok"), (0.9, "broken")])
def test_a_runtime_that_computes_nonsense_is_broken(monkeypatch, name, module, first, status):
    monkeypatch.setattr(module, "load", lambda path, **_: lambda images: np.array([[first * images.mean(), 0]]))
    answer = probes.answer(name)

    assert answer["status"] == status
    if status == "broken":
        assert "[0.8999" in answer["found"] or "[0.9" in answer["found"]


def test_the_probes_network_tells_its_classes_apart(tmp_path):
    logits = exporters.onnx.load(probes._network(tmp_path))(np.ones((2, 3, 8, 8), np.float32) * 0.5)

    assert np.allclose(logits, [[0.5, 0.0]] * 2, atol=1e-6)


@pytest.mark.usefixtures("without_gpu")
def test_without_a_gpu_each_says_so():
    found = {name: probes.answer(name) for name in ("driver", "torch-cuda", "onnxruntime-cuda", "onnxruntime-tensorrt")}

    assert {answer["status"] for answer in found.values()} == {"absent"}
    assert (
        found["torch-cuda"]["found"].endswith("sees no GPU") or "built for the CPU only" in found["torch-cuda"]["found"]
    )
    assert "NVIDIA's driver" in found["driver"]["remedy"] or "nvidia-ml-py" in found["driver"]["found"]
    assert "TensorRT 10" in found["onnxruntime-tensorrt"]["remedy"] or "built without" in str(found)


def test_a_gpu_is_named_after_it_has_computed(monkeypatch):
    properties = SimpleNamespace(name="Loom", total_memory=80 * 10**9, major=9, minor=0)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91300)
    asked = []
    monkeypatch.setattr(probes, "_convolved", lambda device: asked.append(device))
    answer = probes.answer("torch-cuda")

    assert answer["status"] == "ok"
    assert answer["found"] == "Loom (80 GB, sm90), Loom (80 GB, sm90); CUDA 13.2, cuDNN 91300"
    assert answer["facts"]["devices"] == 2
    assert asked == ["cuda:0", "cuda:1"]


def test_a_convolution_that_is_wrong_is_noticed(monkeypatch):
    assert probes._convolved("cpu") is None
    monkeypatch.setattr(torch.nn.functional, "conv2d", lambda image, kernel: torch.zeros(1, 1, 2, 2))
    assert probes.answer("torch-cpu")["found"] == "it computes something else than it should: [0.0, 0.0, 0.0, 0.0]"


def test_a_driver_that_torch_cannot_use_is_broken_rather_than_absent(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu, "driver", lambda: "535.1")
    answer = probes.answer("torch-cuda")

    assert answer["status"] == "broken"
    assert "535.1" in answer["found"]


def test_a_torch_without_cuda_is_told_to_be_replaced(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    answer = probes.answer("torch-cuda")

    assert (answer["status"], answer["remedy"]) == ("absent", "pip install --upgrade torch")


@pytest.mark.parametrize(("driver", "status", "remedy"), [(None, "absent", "driver"), ("580.1", "broken", "cudnn")])
def test_a_cuda_provider_that_does_not_start_is_traced_to_driver_or_libraries(monkeypatch, driver, status, remedy):
    def load(path, **_):
        raise RuntimeMissing("ONNX Runtime cannot use CUDA here", hint="Failed to load libx.so: libx.so: cannot open")

    monkeypatch.setattr(exporters.onnx, "load", load)
    monkeypatch.setattr(gpu, "driver", lambda: driver)
    answer = probes.answer("onnxruntime-cuda")

    assert answer["status"] == status
    assert answer["found"] == "ONNX Runtime cannot use CUDA here: Failed to load libx.so"
    assert remedy in answer["remedy"]


@pytest.mark.parametrize(
    ("error", "status", "found"),
    [
        (RuntimeMissing("no OpenVINO", hint="get it"), "absent", "no OpenVINO"),
        (ArtifactRejected("a bad file"), "broken", "a bad file"),
        (OSError("libz.so.1: cannot open\nsecond line"), "broken", "OSError: libz.so.1: cannot open"),
        (ValueError(), "broken", "ValueError"),
    ],
)
def test_what_a_runtime_throws_is_the_answer(monkeypatch, error, status, found):
    def load(path, **_):
        raise error

    monkeypatch.setattr(exporters.openvino, "load", load)
    answer = probes.answer("openvino")

    assert (answer["status"], answer["found"]) == (status, found)
    assert answer["remedy"] == getattr(error, "hint", None)


def test_tensorrt_builds_a_plan_and_runs_it_where_there_is_a_gpu(monkeypatch):
    built = []

    class Plans:
        COMPILED = True

        def require(self):
            pass

        def versions(self):
            return {"version": "11.4"}

        def build(self, source, folder, stem, *, precision, engine):
            built.append((source.is_file(), precision, engine.batch))
            return SimpleNamespace(path=folder / "plan")

        def load(self, path, *, provider):
            return lambda images: np.array([[1.0, 0.0]], np.float32)

    monkeypatch.setitem(probes._PROBES, "tensorrt", partial(probes._exporter, Plans(), "cuda"))
    assert probes.answer("tensorrt")["found"] == "11.4, builds and runs plans"
    assert built == [(True, "fp32", (1, 1, 1))]

    def load(self, path, *, provider):
        raise RuntimeMissing("no GPU here")

    monkeypatch.setattr(Plans, "load", load)
    answer = probes.answer("tensorrt")
    assert (answer["status"], answer["facts"]["runs"]) == ("ok", False)
    assert answer["found"] == "11.4, builds plans; no GPU here"


def test_a_package_is_absent_or_broken_or_here(monkeypatch):
    assert probes._package("nowhere.tracking", "nowhere", "nowhere") == {
        "status": "absent",
        "found": "nowhere is not installed",
        "remedy": "pip install 'compressor[nowhere]'",
        "facts": {},
    }
    assert probes._package("yaml", "PyYAML", "x")["found"] == metadata.version("PyYAML")
    monkeypatch.setattr(probes, "import_module", lambda name: __import__("what_it_needs_itself"))
    monkeypatch.setitem(probes._PROBES, "timm", lambda: probes._package("timm", "timm", "timm"))
    assert probes.answer("timm")["status"] == "broken"


# The machine and its packages.


def test_this_machine_is_described():
    found = {each.check: each for each in machine()}

    assert list(found) == ["machine", "disk", "python", "packages"]
    assert found["machine"].status == "ok"
    assert f"{len(hardware.cores())} cores" in found["machine"].found
    assert found["disk"].facts["free_bytes"] > 0
    assert found["packages"].status == "ok", found["packages"].found


def test_a_disk_that_is_nearly_full_is_a_problem(monkeypatch, tmp_path):
    monkeypatch.setattr(surroundings.shutil, "disk_usage", lambda folder: SimpleNamespace(free=999_999_999))
    found = surroundings._folder(tmp_path)
    assert (found.status, found.found) == ("broken", f"only 1.0 GB free in {tmp_path}")

    monkeypatch.setattr(surroundings.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1_000_000_000))
    assert surroundings._folder(tmp_path).status == "ok"


def test_a_working_folder_that_cannot_be_written_to_is_needed_for_everything(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    found = surroundings._folder(tmp_path)

    assert found.missing
    assert found.found == f"{tmp_path} cannot be written to"


def test_a_python_that_is_too_old_is_named(monkeypatch):
    monkeypatch.setattr(surroundings.platform, "python_version", lambda: "3.10.2")
    found = surroundings._python()

    assert found.missing
    assert found.found == "Python 3.10.2 is not >=3.11"


def test_packages_that_are_too_old_or_absent_are_installed_with_one_line(monkeypatch):
    wanted = ["torch>=2.11", "numpy>=1.26", "rich>=13", "timm>=1.0; extra == 'timm'", "other>=1; sys_platform == 'x'"]
    installed = {"torch": "2.10.1", "rich": "13.9"}
    monkeypatch.setattr(metadata, "requires", lambda name: wanted)
    monkeypatch.setattr(surroundings, "_version", installed.get)
    found = surroundings._packages()

    assert found.missing
    assert found.found == "torch 2.10.1, wanted >=2.11; numpy is absent, wanted >=1.26"
    assert found.remedy == "pip install 'torch>=2.11' 'numpy>=1.26'"
    installed |= {"torch": "2.15.0+cu132", "numpy": "2.0"}
    assert surroundings._packages().found == "3 packages in the versions that compressor asks for"


def with_cuda(torch_cuda, ort_cuda):
    return [finding("torch-cpu", facts={"cuda": torch_cuda}), finding("onnxruntime-cpu", facts={"cuda": ort_cuda})]


@pytest.mark.parametrize(
    ("torch_cuda", "ort_cuda", "remedy"),
    [
        ("13.2", "13.0", None),
        ("12.8", "13.0", "pip install --upgrade torch"),
        ("13.0", "12.6", "pip install --upgrade onnxruntime-gpu"),
        (None, "13.0", None),
        ("13.0", None, None),
    ],
)
def test_torch_and_onnx_runtime_must_be_of_one_major_version_of_cuda(monkeypatch, torch_cuda, ort_cuda, remedy):
    monkeypatch.setattr(hardware, "clashes", lambda: ())
    monkeypatch.setattr(hardware, "versions", dict)
    found = clashes(with_cuda(torch_cuda, ort_cuda))

    assert [each.remedy for each in found] == ([] if remedy is None else [remedy])


@pytest.mark.parametrize(
    ("versions", "told"),
    [
        ({"tensorrt": "11.4.0", "onnxruntime-gpu": "1.31"}, True),
        ({"tensorrt-cu13": "11.4.0", "onnxruntime-gpu": "1.31"}, True),
        ({"tensorrt": "10.13.3", "onnxruntime-gpu": "1.31"}, False),
        ({"tensorrt": "11.4.0", "onnxruntime": "1.31"}, False),
        ({"onnxruntime-gpu": "1.31"}, False),
    ],
)
def test_onnx_runtime_beside_another_tensorrt_than_10_is_told(monkeypatch, versions, told):
    monkeypatch.setattr(hardware, "clashes", lambda: ())
    monkeypatch.setattr(hardware, "versions", lambda: versions)

    assert [each.check for each in clashes([])] == (["clash-tensorrt"] if told else [])


def test_what_hardware_calls_a_clash_has_a_line_to_type(monkeypatch):
    monkeypatch.setattr(hardware, "clashes", lambda: ("two of them",))
    monkeypatch.setattr(hardware, "versions", dict)
    (found,) = clashes([])

    assert (found.status, found.found) == ("broken", "two of them")
    assert found.remedy.startswith("pip uninstall -y onnxruntime onnxruntime-gpu")


def test_a_look_is_machine_then_clashes_then_runtimes(monkeypatch):
    monkeypatch.setattr(doctor, "probe", lambda names, timeout_s: tuple(finding(name) for name in names))
    monkeypatch.setattr(doctor, "clashes", lambda runtimes: (finding(f"clash of {len(runtimes)}"),))
    checks = [each.check for each in doctor.examine()]

    count = len(probing.RUNTIMES)
    assert checks == ["machine", "disk", "python", "packages", f"clash of {count}", *probing.RUNTIMES]


# What a recipe needs.


@pytest.mark.parametrize(
    ("values", "statuses", "expected"),
    [
        ({}, {}, {}),
        ({"export": [{"format": "openvino"}]}, {"openvino": "absent"}, {"openvino": ("export openvino",)}),
        ({"export": [{"format": "trt"}]}, {}, {"tensorrt": ("export trt",)}),
        ({"export": [{"format": "trt-rtx"}]}, {"tensorrt_rtx": "broken"}, {"tensorrt-rtx": ("export trt-rtx",)}),
        ({"export": [{"format": "trt-rtx"}]}, {"tensorrt": "broken"}, {}),
        (
            {"device": "cuda"},
            {},
            {"torch-cuda": ("device cuda",), "onnxruntime-cuda": ("export onnx",)},
        ),
        ({"device": "cpu"}, {"torch_cuda": "ok"}, {}),
        ({"device": "auto"}, {"torch_cuda": "ok"}, {"onnxruntime-cuda": ("export onnx",)}),
        ({"device": "auto"}, {"torch_cuda": "broken"}, {}),
    ],
)
def test_runtimes_that_a_recipe_needs_are_missing_when_they_do_not_work(values, statuses, expected):
    assert missing(demand(findings(**statuses), recipe(**values))) == expected


def test_two_exports_of_a_format_are_one_need():
    wanted = recipe(export=[{"format": "trt", "precision": each} for each in ("fp32", "fp16")])

    assert missing(demand(findings(), wanted)) == {"tensorrt": ("export trt",)}


@pytest.mark.parametrize(("device", "absent"), [("cuda:1", False), ("cuda:2", True), ("cuda", False)])
def test_gpus_are_counted(device, absent):
    found = [each for each in findings(onnxruntime_cuda="ok") if each.check != "torch-cuda"]
    found.append(finding("torch-cuda", facts={"devices": 2}))
    expected = {"device": (f"device {device}",)} if absent else {}

    assert missing(demand(found, recipe(device=device))) == expected


def test_packages_are_tried_only_when_a_recipe_needs_them(monkeypatch):
    from compressor.doctor import needs

    tried = []

    def probe(names, *, timeout_s):
        tried.append(list(names))
        return [finding(name, "absent") for name in names]

    monkeypatch.setattr(needs, "probe", probe)
    assert missing(demand(findings(), recipe())) == {}
    wanted = recipe(
        student={"arch": "timm/resnet10t"},
        tracking=[{"kind": "tensorboard"}, {"kind": "mlflow"}],
        validate={"autoattack_samples": 8},
    )
    assert missing(demand(findings(), wanted)) == {
        "timm": ("student timm/resnet10t",),
        "autoattack": ("validate.autoattack_samples",),
        "tensorboard": ("tracking",),
        "mlflow": ("tracking",),
    }
    assert tried == [[], ["timm", "autoattack", "tensorboard", "mlflow"]]


@pytest.mark.parametrize("answers", [True, False])
def test_the_server_of_a_tracker_must_answer(monkeypatch, answers):
    from compressor.doctor import needs

    def ask(recipe):
        if not answers:
            raise EnvironmentMissing("the server is down", hint="start it")

    monkeypatch.setattr(needs, "probe", lambda names, timeout_s: [finding(name) for name in names])
    monkeypatch.setattr(needs, "require", ask)
    assert missing(demand(findings(), recipe(tracking=[{"kind": "tensorboard"}]))) == {}
    found = demand(findings(), recipe(tracking=[{"kind": "mlflow"}]))

    assert missing(found) == ({} if answers else {"mlflow-server": ("tracking",)})
    assert found[-1].remedy == (None if answers else "start it")


def test_files_that_a_recipe_names_must_be_there(tmp_path):
    values = {
        "method": {"kind": "bss"},
        "teacher": {"checkpoint": tmp_path / "teacher.pt"},
        "student": {"arch": "nowhere_at_all:make", "init": tmp_path / "init.pt"},
        "data": {"name": f"folder:{tmp_path / 'images'}"},
        "gates": {"baseline": tmp_path, "max_top1_regression": 1.0},
    }
    found = demand(findings(), recipe(**values))
    assert set(missing(found)) == {"teacher", "student.init", "student", "data", "gates.baseline"}
    told = {each.check: each for each in found}
    assert told["teacher"].found == f"there is no file {tmp_path / 'teacher.pt'}"
    assert told["gates.baseline"].needed == ("gates",)

    for name in ("teacher.pt", "init.pt", "result.json"):
        (tmp_path / name).touch()
    (tmp_path / "images").mkdir()
    values["student"]["arch"] = "json:make"
    assert missing(demand(findings(), recipe(**values))) == {}


def test_a_run_is_a_teacher_by_its_student(tmp_path):
    (tmp_path / "recipe.resolved.yaml").touch()
    values = {"method": {"kind": "bss"}, "teacher": {"checkpoint": tmp_path}}
    (told,) = [each for each in demand(findings(), recipe(**values)) if each.check == "teacher"]

    assert told.found == f"there is no file {tmp_path / 'student' / 'student.safetensors'}"


def test_a_data_set_is_looked_for_where_it_will_be_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPRESS_DATA", str(tmp_path / "there"))
    wanted = recipe(data={"name": "mnist"})
    (told,) = [each for each in demand(findings(), wanted) if each.check == "data"]
    assert told.missing
    assert "mnist is neither in" in told.found
    assert "COMPRESS_DATA" in told.remedy

    (tmp_path / "there" / "MNIST" / "raw").mkdir(parents=True)
    assert missing(demand(findings(), wanted)) == {}


def test_a_data_set_that_does_not_exist_is_missing():
    (told,) = [each for each in demand(findings(), recipe(data={"name": "cifar11"})) if each.check == "data"]

    assert (told.missing, told.found) == (True, "there is no data set 'cifar11'")
    assert "cifar10" in told.remedy


def test_what_flags_must_fill_is_missing():
    found = demand(findings(), recipe(method={"kind": "bss"}))

    assert missing(found) == {"recipe": ("everything",)}
    assert next(each.found for each in found if each.check == "recipe").startswith("method bss learns from a teacher")


@pytest.mark.parametrize(
    ("compile_", "device", "needed"), [(True, "cpu", True), (False, "cpu", False), (True, "cuda", False)]
)
def test_compiling_on_a_cpu_needs_a_compiler(monkeypatch, compile_, device, needed):
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = demand(findings(torch_cuda="ok", onnxruntime_cuda="ok"), recipe(train={"compile": compile_}, device=device))

    assert missing(found) == ({"compiler": ("train.compile",)} if needed else {})


# The command.


def test_without_a_recipe_what_is_absent_is_no_failure(seen):
    seen(findings())
    done = ran(["doctor"])

    lines = done.out.splitlines()
    assert any(line.split() == ["absent", "TensorRT", "tensorrt", "is", "absent"] for line in lines)
    assert any(line.split()[:2] == ["ok", "OpenVINO"] for line in lines)
    assert (
        "  NVIDIA driver; PyTorch on CUDA; ONNX Runtime, cuda; ONNX Runtime, tensorrt; TensorRT:\n    plug it in"
        in done.out
    )
    assert "\x1b" not in done.out
    assert all(line == line.rstrip() for line in lines)
    assert "trying each runtime" in done.err


def test_lines_to_type_are_never_wrapped(seen):
    line = "pip install " + "x" * 300
    seen((finding("torch-cpu"), finding("tensorrt", "absent", remedy=line)))

    assert f"\n    {line}\n" in ran(["doctor"]).out


def test_without_pytorch_nothing_works_and_the_recipe_is_not_read(seen):
    broken = Finding("torch-cpu", "PyTorch on the CPU", "broken", "it crashed", "mend it", ("everything",))
    seen((broken,))
    done = typed(["doctor", "digits-teacher", "-q"])

    assert done.code == 3
    assert done.err == (
        "error: digits-teacher needs what is not here: PyTorch on the CPU (for everything): it crashed\nhint: mend it\n"
    )
    assert "broken" in done.out


def test_a_recipe_that_can_run_here_ends_well(seen):
    seen(findings())

    assert "digits" in ran(["doctor", "digits-teacher", "-q"]).out


def test_a_recipe_that_cannot_run_here_ends_with_3(seen):
    seen(findings())
    done = typed(["doctor", "digits-teacher", "-q", "--set", "export=[{format: trt}]", "--json"])

    assert done.code == 3
    assert "digits-teacher needs what is not here: TensorRT (for export trt): tensorrt is absent" in done.err
    assert "hint: plug it in" in done.err
    told = {each["check"]: each for each in json.loads(done.out)["findings"]}
    assert told["tensorrt"]["missing"] is True
    assert told["tensorrt"]["needed"] == ["export trt"]
    assert told["openvino"]["missing"] is False


def test_flags_fill_the_recipe(seen, tmp_path):
    seen(findings())
    done = typed(["doctor", "digits-bss", "-q", "--teacher", str(tmp_path / "none.pt")])

    assert done.code == 3
    assert f"there is no file {tmp_path / 'none.pt'}" in done.err
    assert "learns from a teacher" not in done.err


def test_a_recipe_that_is_not_there_is_said_before_anything_is_tried(monkeypatch):
    monkeypatch.setattr(doctor, "examine", lambda: pytest.fail("tried"))

    refused(["doctor", "digits-bbs"], 2, "there is no recipe 'digits-bbs'", "digits-bss")
