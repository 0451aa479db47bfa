"""A finished run made by hand: every measure has a value of its own, so that a mix-up shows."""

from pathlib import Path

from compressor.runs import manifest, record
from compressor.runs.folder import Run

TEACHER, STUDENT, GRAPH, INT8, PLAN = (letter * 64 for letter in "abcde")
RECIPE = """\
name: oak
data: {name: digits}
method: {kind: bss, temperature: 3.0}
train: {epochs: 4, lr: 0.1}
gates: {min_top1: 90}
"""


def metrics(path, digest, **changes):
    return {
        "path": path,
        "format": "onnx",
        "precision": "fp32",
        "provider": "cpu",
        "sha256": digest,
        "size_bytes": 2_345_678,
        "samples": 359,
    } | changes


def timing(p50):
    return record.Timing(
        p50=p50,
        p90=p50 + 1,
        p95=p50 + 2,
        p99=p50 + 3,
        mean=p50,
        median_ci=None,
        images_per_s=1234.4,
        iterations=30,
        threads=None,
        transfers=False,
        other_load=None,
    )


def result(**changes) -> record.Result:
    """A record of a teacher, a student, an ONNX file, an INT8 one and a plan."""
    network = {"format": "pytorch", "classes": 3, "input_shape": (1, 8, 8)}
    classes = {
        "left": {"cat": 91.25, "a|b <i>*": 80.0, "new": None},
        "by": {"cat": 1.5, "a|b <i>*": -6.25, "new": None},
    }
    values = {
        "name": "oak",
        "created": "2026-01-02T03:04:05+00:00",
        "recipe_sha256": "f" * 64,
        "data": record.Data(
            source="folder:/home/ann/images/leaves",
            fingerprint="0123456789abcdef",
            classes=3,
            train=1294,
            validation=144,
            test=359,
            attack_samples=64,
            epsilon=0.0314,
        ),
        "training": record.Training(
            method="bss",
            seed=7,
            epochs=4,
            seconds=21.3,
            validation_top1=83.3,
            best_validation_top1=86.1,
            best_epoch=3,
        ),
        "teacher": record.Network(
            **metrics("/home/ann/teacher.pt", TEACHER, **network, top1=93.5, ece=0.018),
            arch="lenet5",
            parameters=61706,
            macs=416520,
        ),
        "student": record.Network(
            **metrics(
                "student/student.safetensors",
                STUDENT,
                **network,
                top1=85.75,
                top1_ci=(81.8, 89.03),
                top5=99.44,
                ece=0.0284,
                nll=0.4056,
                agreement=0.8607,
                boundary_agreement=0.4321,
                accuracy_drop=7.75,
                accuracy_drop_ci=(4.04, 11.47),
                class_accuracy=classes["left"],
                class_change=classes["by"],
                fgsm_top1=55.5,
                pgd_top1=44.25,
                magsim=0.8125,
                angsim=0.375,
                similarity_walks=281,
                latency_ms={"1": timing(0.5)},
            ),
            arch="lenet5-half",
            parameters=15738,
            macs=133740,
        ),
        "artifacts": (
            record.Artifact(**metrics("export/student.fp32.onnx", GRAPH, top1=85.5)),
            record.Artifact(
                **metrics("export/student.int8.onnx", INT8, precision="int8", top1=84.5),
                calibration=record.Calibration(
                    recipe="cpu", method="minmax", samples=512, boundary=128, kept_fp32=("head",), drop=0.3
                ),
            ),
            record.Artifact(
                **metrics("export/student.fp16.plan", PLAN, format="trt", precision="fp16", provider=None),
                note="there is no GPU",
            ),
        ),
        "gates": (
            record.Gate(
                gate="min_top1",
                artifact="export/student.int8.onnx",
                limit=90.0,
                value=84.5,
                verdict="broken",
                passed=False,
                detail="of 359",
            ),
        ),
        "versions": {"python": "3.11.7", "compressor": "0.1.0", "torch": "2.15.0"},
        "hardware": {"cpu": "Abacus 9", "cores": 2, "gpus": ["Loom", "Warp"], "compute_capability": [], "driver": None},
    }
    return record.Result(**values | changes)


def link(made, digest, source, source_digest):
    return manifest.Link(made=made, sha256=digest, source=source, source_sha256=source_digest)


LINEAGE = (
    link("student/student.safetensors", STUDENT, "lenet5", TEACHER),
    link("export/student.fp32.onnx", GRAPH, "student/student.safetensors", STUDENT),
    link("export/student.int8.onnx", INT8, "student/student.safetensors", STUDENT),
    link("export/student.fp16.plan", PLAN, "export/student.fp16.onnx", "9" * 64),
    link("export/student.fp16.onnx", "9" * 64, "student/student.safetensors", STUDENT),
)


def folder(place: Path, lineage=LINEAGE) -> Run:
    """The folder of that run: its recipe and its manifest."""
    run = Run(place)
    place.mkdir(exist_ok=True)
    run.recipe.write_text(RECIPE)
    known = manifest.Manifest(name="oak", files=(), lineage=lineage)
    (place / manifest.NAME).write_text(known.model_dump_json())
    return run
