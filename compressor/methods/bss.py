"""Distillation with boundary supporting samples: KD that also looks just past the teacher's decision boundaries."""

from collections.abc import Iterator
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from compressor.attack import CROSSED, BoundaryAttack, BoundarySamples, Walk, sample_targets, select_bases, summarise
from compressor.batch import Batch
from compressor.methods.batchnorm import normalising
from compressor.methods.kd import Distillation, SoftTargets
from compressor.methods.protocol import Config, Moment, Needs, Objective, Setting, Update, refusal
from compressor.methods.weights import Weight


class Attack(Config):
    """How boundary samples are made, see `compressor.attack`."""

    walk: Walk = Field(
        default="published",
        description="published: as the authors' code, well past the boundary with a steep teacher; tight: the same, "
        "then bisected; newton: steps as long as a linear gap asks for",
    )
    steps: PositiveInt = 10
    step_size: PositiveFloat = Field(
        default=0.3, description="per logit of the gap, in standard deviations of the data; not of newton"
    )
    margin: NonNegativeFloat = Field(default=1e-4, description="added to the gap, in logits")
    bisections: PositiveInt = Field(default=6, description="of the last step of a tight walk")
    size: PositiveInt = Field(default=64, description="images of a batch that are attacked, at most")
    keep: Literal["all", "crossed"] = Field(
        default="all",
        description="all: wherever a walk ended, as the authors' code; crossed: only in the target class, as the paper",
    )

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        fields = type(self).model_fields
        for key, walks in (("step_size", ("published", "tight")), ("bisections", ("tight",))):
            if self.walk not in walks and getattr(self, key) != fields[key].default:
                plural = "s" if walks[1:] else ""
                raise refusal(f"is for the walk{plural} {' and '.join(walks)}, not {self.walk}", key=key)
        return self

    def build(self) -> BoundaryAttack:
        """Return the walk."""
        return BoundaryAttack(
            steps=self.steps,
            step_size=self.step_size,
            margin=self.margin,
            walk=self.walk,
            bisections=self.bisections,
        )


class BoundaryTeaching(Distillation):
    """The keys of every method that teaches on boundary supporting samples too, with the published values."""

    bss_weight: Weight = Weight((2.0, 0.0, 0.75))
    attack: Attack = Attack()
    every: PositiveInt = Field(default=1, description="attack in every n-th step only")
    update_batchnorm: bool = Field(
        default=True,
        description="whether boundary samples move the running statistics of the student's BatchNorm, as published",
    )
    needs: ClassVar[Needs] = Needs(gradients=True)

    def build(self, setting: Setting) -> Objective:
        return BoundaryTargets(self, setting)


class BSS(BoundaryTeaching):
    """Soft targets on the images and on boundary supporting samples (Heo et al., AAAI 2019).

    The defaults are the published ones. Without the boundary term it is `kd`, with the same defaults. Boundary samples
    are taught by the same soft loss, without labels, and by no feature loss.
    """

    kind: Literal["bss"] = "bss"


class BoundaryTargets(SoftTargets):
    """The student sees clean and boundary images in two passes, as published: one batch would mix their statistics.

    What images are walked, towards which classes, and how, is in a function each, for methods that do one otherwise.
    """

    config: BoundaryTeaching

    def updates(self, batch: Batch, moment: Moment) -> Iterator[Update]:
        config = self.config
        terms, taught, logits = self.lesson(batch, moment)
        weight, notes = config.bss_weight.at(moment.elapsed), dict[str, Tensor]()
        if weight > 0 and moment.step % config.every == 0:
            images, beyond, notes = self._samples(batch, taught, logits, moment)
            if len(images) > 0:
                with normalising(self.setting.student, alone=len(images) == 1, update=config.update_batchnorm):
                    answer = self.setting.student(images).float()
                terms["bss"] = weight * self.soft(answer, beyond, None).mean()
        yield Update(terms, notes=notes)

    def _samples(
        self, batch: Batch, taught: Tensor, logits: Tensor, moment: Moment
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return the boundary samples of a batch, `[N, C, H, W]`, the teacher's logits there, `[N, K]`, and what to
        note of the walks: `attack.WalkSummary`, by names that begin with `walk_`.
        """
        config = self.config.attack
        share = -(-config.size // moment.world)  # the most telling come first
        chosen = self.bases(taught, logits, batch.labels)[:share]
        if len(chosen) == 0:
            return batch.images[chosen], taught[chosen], {}
        images, base = batch.images[chosen], batch.labels[chosen]
        target = self.targets(taught[chosen], base, moment.generator)
        samples = self.walk(images, base, target, moment.generator)
        summary = summarise(images, samples, base, scale=self.setting.std)
        notes = {f"walk_{name}": value for name, value in summary._asdict().items()}
        if config.keep == "all":
            return samples.images, samples.logits, notes
        kept = samples.crossed == CROSSED
        return samples.images[kept], samples.logits[kept], notes

    def bases(self, taught: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Return indices `[N]` of the images to walk, from what teacher and student say of them, `[B, K]` each."""
        return select_bases(taught, logits, labels, self.config.attack.size)

    def targets(self, taught: Tensor, base: Tensor, generator: torch.Generator) -> Tensor:
        """Return the classes `[N]` to walk to."""
        return sample_targets(taught, base, generator)

    def walk(
        self,
        images: Tensor,
        base: Tensor,
        target: Tensor,
        generator: torch.Generator,  # noqa: ARG002 (for walks at random)
    ) -> BoundarySamples:
        """Return where the walks ended."""
        attack = self.config.attack.build()
        return attack(self.setting.teachers[0], images, base, target, scale=self.setting.std)
