"""What every file of a run is evaluated on: the same test images, boundary images and adversarial ones, made once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from compressor import checkpoint
from compressor.attack import autoattack
from compressor.data import Dataset
from compressor.errors import InputRejected
from compressor.inputs import Inputs
from compressor.measure.hard_images import (
    AdversarialSet,
    AutoAttackSet,
    BoundarySet,
    adversarial_set,
    autoattack_accuracy,
    autoattack_set,
    boundary_agreement,
    boundary_set,
    robust_accuracy,
)
from compressor.measure.made import MadeImages, made_images
from compressor.measure.scores import Predictions, Scores, infer, predict, score, spread_within
from compressor.measure.similarity import SimilaritySet, similarity_set
from compressor.recipe import Validate
from exporters import Runner
from exporters.pytorch import TorchRunner


@dataclass(frozen=True)
class EvaluationSet:
    """What a file is asked. Without a teacher there is nothing to agree with, without its gradients no boundary.

    Without test images there is no accuracy: agreement on images that were made is all that is known.
    """

    data: Dataset
    teacher: Predictions | None = None
    boundary: BoundarySet | None = None
    attacked: AdversarialSet | None = None
    autoattacked: AutoAttackSet | None = None
    similar: SimilaritySet | None = None
    made: MadeImages | None = None
    kappa: float = 1.0  # largest spread of the confidence lost that counts as preserved

    @property
    def sizes(self) -> dict[str, Any]:
        """How many images of each kind there are, by the names of `report.record.Data`."""
        return {
            "boundary_samples": None if self.boundary is None else len(self.boundary.images),
            "attack_samples": None if self.attacked is None else len(self.attacked.labels),
            "autoattack_samples": None if self.autoattacked is None else len(self.autoattacked.labels),
            "made": None if self.made is None else self.made.sizes,
            "epsilon": next((each.epsilon for each in (self.attacked, self.autoattacked) if each is not None), None),
        }

    @property
    def sentence(self) -> str:
        """What is asked, in words."""
        parts = [f"{len(self.data.test):,} test images"] if len(self.data.test) else ["no test images"]
        if self.made is not None:
            parts.append(self.made.sentence)
        if self.boundary is not None:
            parts.append(f"{len(self.boundary.images)} on the teacher's boundary (of {self.boundary.walked} walked)")
        if self.attacked is not None:
            parts.append(f"{len(self.attacked.labels)} attacked within {255 * self.attacked.epsilon:.3g}/255")
        if self.autoattacked is not None:
            parts.append(self.autoattacked.sentence)
        if self.similar is not None:
            parts.append(f"{len(self.similar.labels)} walked in two networks")
        if self.data.target is not None:
            parts.append(f"{len(self.data.target):,} of the target domain")
        return ", ".join(parts)


def evaluation_set(
    inputs: Inputs,
    config: Validate,
    *,
    teacher_runner: Runner | None,
    student: checkpoint.Network | None,
    seed: int,
    taught: Predictions | None = None,
    generated: torch.Tensor | None = None,
) -> EvaluationSet:
    """Make the set: the teacher gives the boundary images, the student the adversarial ones.

    Args:
        taught: the teacher's predictions on the test images, where they are known.
        generated: images of the run's generator, `[N, H, W, C]` uint8.

    Raises:
        EnvironmentMissing: AutoAttack is asked for and not installed.
    """
    if config.autoattack_samples > 0:
        autoattack.require()
    data, teacher, device = inputs.data, inputs.teacher, inputs.device
    made = None
    if teacher is not None and teacher_runner is not None and (generated is not None or len(data.test) == 0):
        made = made_images(teacher, generated, teacher_runner, seed=seed, device=device)
    teacher = inputs.walkable
    if len(data.test) == 0 and made is not None:
        return EvaluationSet(data, made=made)
    if len(data.test) == 0:
        raise InputRejected(f"{data.source} has no test images", hint="a test/ or val/ folder, or --set data.test=0.2")
    kappa = spread_within(config.confidence_tolerance, config.confidence_share)
    boundary = attacked = autoattacked = similar = None
    if teacher is not None:
        walking: dict[str, Any] = {"std": torch.tensor(teacher.std), "seed": seed, "device": device}
        if config.boundary_samples > 0:
            boundary = boundary_set(teacher.module, data.test, count=config.boundary_samples, **walking)
        if config.similarity_images > 0:
            similar = similarity_set(teacher.module, data.test, count=config.similarity_images, **walking)
    if student is not None:
        attacking: dict[str, Any] = {"epsilon": config.epsilon, "seed": seed, "device": device}
        if config.attack_samples > 0:
            attacked = adversarial_set(student.module, data.test, count=config.attack_samples, **attacking)
        if config.autoattack_samples > 0:
            autoattacked = autoattack_set(student.module, data.test, count=config.autoattack_samples, **attacking)
    if taught is None and teacher_runner is not None:
        taught = predict(teacher_runner, data.test)
    return EvaluationSet(data, taught, boundary, attacked, autoattacked, similar, made, kappa)


def evaluate(
    runner: Runner, evaluation: EvaluationSet, *, teacher: bool = False, said: Predictions | None = None
) -> dict[str, Any]:
    """Return what a record says of a file's answers, by the names of `report.record.Metrics`.

    The `teacher` itself is not compared with itself.

    Args:
        said: what the file says of the test images, where it was asked before.
    """
    made = None if evaluation.made is None or teacher else evaluation.made.agreements(runner)
    if len(evaluation.data.test) == 0:
        return {"made_agreement": made}
    known = said or (evaluation.teacher if teacher else None)
    scores = score(known or predict(runner, evaluation.data.test), teacher=None if teacher else evaluation.teacher)
    classes = evaluation.data.classes
    measures: dict[str, Any] = {
        "samples": scores.samples,
        "top1": scores.top1,
        "top1_ci": scores.top1_interval,
        "top5": scores.top5,
        "ece": scores.ece,
        "nll": scores.nll,
        "agreement": scores.agreement,
        "made_agreement": made,
        "accuracy_drop": scores.drop,
        "accuracy_drop_ci": scores.drop_interval,
        "worst_class_drop": scores.worst_class_drop,
        "teacher_mistakes_fixed": scores.teacher_mistakes_fixed,
        "new_mistakes": scores.new_mistakes,
        "class_accuracy": dict(zip(classes, scores.per_class, strict=True)),
    }
    measures |= _confidence(scores, evaluation.kappa)
    if scores.class_change is not None:
        measures["class_change"] = dict(zip(classes, scores.class_change, strict=True))
    if evaluation.boundary is not None and not teacher:
        measures["boundary_agreement"] = boundary_agreement(
            infer(runner, evaluation.boundary.images), evaluation.boundary.teacher_logits
        )
    measures |= _under_attack(runner, evaluation)
    if evaluation.data.target is not None:
        there = score(predict(runner, evaluation.data.target))
        measures |= {"target_top1": there.top1, "target_top1_ci": there.top1_interval}
    return measures | _similarity(runner, None if teacher else evaluation.similar)


def _confidence(scores: Scores, kappa: float) -> dict[str, Any]:
    """Return how the confidence in the teacher's class differs from the teacher's, and whether it is preserved."""
    spread = scores.confidence_spread
    return {
        "confidence_drop": scores.confidence_drop,
        "confidence_spread": spread,
        "confidence_changed": scores.confidence_changed,
        "confidence_kappa": None if spread is None else kappa,
        "confidence_preserved": None if spread is None else spread <= kappa,
    }


def _under_attack(runner: Runner, evaluation: EvaluationSet) -> dict[str, float | None]:
    """Return the accuracies on attacked images; what is not measured now takes back what was measured before."""
    robust = None if evaluation.attacked is None else robust_accuracy(runner, evaluation.attacked)
    ensemble = evaluation.autoattacked
    return {
        "fgsm_top1": None if robust is None else robust.fgsm_top1,
        "pgd_top1": None if robust is None else robust.pgd_top1,
        "autoattack_top1": None if ensemble is None else autoattack_accuracy(runner, ensemble),
    }


def _similarity(runner: Runner, similar: SimilaritySet | None) -> dict[str, Any]:
    """Return how alike the boundaries of the teacher and of a file are; only what PyTorch runs has gradients."""
    if similar is None or not isinstance(runner, TorchRunner):
        return {"magsim": None, "angsim": None, "similarity_walks": None}
    found = similar.similarity(runner.network)
    known = found.counted > 0
    return {
        "magsim": found.magnitude if known else None,
        "angsim": found.angle if known else None,
        "similarity_walks": found.counted,
    }
