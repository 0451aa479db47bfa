"""Runs made by hand, as a report gets to know them."""

from pathlib import Path

import numpy as np
from test_report import result

from compressor.bench import Benchmark, Latency
from compressor.measure.gallery import BoundaryExample, Disagreement, Slice
from compressor.measure.predictions import FilePredictions, StoredPredictions
from compressor.report.contents import Contents, Gallery
from compressor.runs import record
from compressor.runs.record import Gate

HOSTILE = ("<script>alert(1)</script>", "$x_1$", '"><img src=x onerror=alert(1)>', "a & b", "{{ 7 * 7 }}")


def timing(p50: float) -> record.Timing:
    return record.Timing(
        **{"p50": p50, "p90": 1.2 * p50, "p95": 1.3 * p50, "p99": 2 * p50, "mean": p50, "images_per_s": 1000 / p50},
        median_ci=(0.9 * p50, 1.1 * p50),
        iterations=9,
        threads=None,
        transfers=False,
        other_load=0.0,
    )


def latency(batch: int, p50: float, **changes) -> Latency:
    values = {
        "batch": batch,
        "samples_ms": tuple(p50 * factor for factor in (0.8, 0.9, 1.0, 1.2, 2.0)),
        "percentiles": {},
        "mean_ms": p50,
        "median_interval": None,
        "throughput": 1.0,
        "warmup_iterations": 1,
        "threads": None,
        "transfers": False,
        "other_load": 0.0,
        "clock_mhz": None,
    }
    return Latency(format="onnx", provider="cpu", precision="fp32", **(values | changes))


def answer(classes, labels, sha256="0" * 64) -> FilePredictions:
    count = len(labels)
    return FilePredictions(
        sha256=sha256,
        labels=np.array(labels, np.int32),
        classes=np.array(classes, np.int32),
        probabilities=np.full(count, 0.5, np.float32),
    )


def measured(names, **changes):
    """The record of a run that was examined and timed."""
    accuracy = dict.fromkeys(names, 90.0)
    first = {
        "top1": 98.0,
        "top1_ci": (96.0, 99.0),
        "samples": 359,
        "class_accuracy": accuracy,
        "latency_ms": {"1": timing(8.0), "8": timing(20.0)},
    }
    after = first | {
        "top1": 97.0,
        "agreement": 0.95,
        "boundary_agreement": 0.6,
        "accuracy_drop": 1.0,
        "accuracy_drop_ci": (0.25, 1.75),
        "worst_class_drop": 3.0,
        "teacher_mistakes_fixed": 0.25,
        "new_mistakes": 0.125,
        "confidence_spread": 0.0625,
        "confidence_kappa": 0.03125,
        "confidence_preserved": False,
        "class_change": {name: float(number) - 3 for number, name in enumerate(names)},
        "latency_ms": {"1": timing(4.0), "8": timing(10.0)},
    }
    similar = {"magsim": 0.75, "angsim": -0.25, "similarity_walks": 1234}
    plain = result()
    last = after | {"latency_ms": {"1": timing(1.0), "8": timing(5.0)}}
    return plain.model_copy(
        update={
            "data": plain.data.model_copy(update={"classes": len(names)}),
            "teacher": plain.teacher.model_copy(update=first),
            "student": plain.student.model_copy(update=after | similar),
            "artifacts": (plain.artifacts[0].model_copy(update=last),),
        }
        | changes
    )


def contents(names=("zero", "one", "two", "three", "four"), **changes) -> Contents:
    """A run of which everything is known."""
    count = len(names)
    generator = np.random.default_rng(0)
    images = generator.random((3, 3, 8, 8), dtype=np.float32)
    labels = np.arange(20) % count
    run = measured(names)
    paths = ["teacher", "student", run.artifacts[0].path]
    even = np.full(count, 1 / count, np.float32)
    grid = generator.dirichlet(np.ones(count), (9, 9)).astype(np.float32)
    values = {
        "name": "try",
        "folder": Path("runs/try"),
        "recipe": "recipe: 1\n",
        "environment": {},
        "epochs": [
            {"epoch": 1, "losses": {"ce": 2.0, "bss": 3.0}, "validation_top1": 50.0},
            {"epoch": 2, "losses": {"ce": 1.0}, "validation_top1": 75.0},
        ],
        "result": run,
        "benchmark": Benchmark(
            latencies={path: (latency(1, 4.0), latency(8, 9.0)) for path in paths}, versions={}, hardware={}
        ),
        "answers": StoredPredictions(
            fingerprint="f",
            files={"teacher": answer(labels, labels), "student": answer((labels + (labels == 1)) % count, labels)},
        ),
        "gallery": Gallery(
            examples=(
                BoundaryExample(
                    base=images[0], sample=images[1], label=0, target=1, steps=2, teacher=even, student=even
                ),
            ),
            plane=Slice(
                xs=np.linspace(-1, 1, 9, dtype=np.float32),
                ys=np.linspace(-1, 1, 9, dtype=np.float32),
                teacher=grid,
                student=grid[::-1],
                points=((0.0, 0.0), (0.5, 0.0), (0.1, 0.4)),
                classes=(0, 1, 2),
            ),
            disagreements=(
                Disagreement(
                    image=images[2],
                    label=1,
                    teacher=1,
                    teacher_probability=0.9,
                    student=2,
                    student_probability=0.6,
                ),
            ),
            notes=("a note",),
        ),
    }
    return Contents(**(values | changes))


def gate(passed, value=1.0, detail="so and so"):
    word = {True: "held", False: "broken"}.get(passed, "unmeasured" if value is None else "undecided")
    return Gate(gate="min_top1", artifact="a.onnx", limit=90, value=value, verdict=word, passed=passed, detail=detail)


def with_gates(*gates) -> Contents:
    return contents(result=measured(("a", "b"), gates=gates))
