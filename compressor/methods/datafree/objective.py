"""A generator in place of data: the student learns from the teacher on its images, then it learns from both.

Every data-free method is this game with other terms. All keys of the game are here; what a method draws for its
generator, and what its student minimises, are functions that it overrides.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from compressor.attack import as_found, sample_targets
from compressor.batch import Batch
from compressor.generators import AnyGenerator, Evolution, Score, Upsample
from compressor.kinds import Config, refusal
from compressor.methods.bss import Attack
from compressor.methods.datafree.terms import GeneratorLoss, Judge, Judged, Measure, entropy_share
from compressor.methods.kd import ask
from compressor.methods.protocol import Moment, Needs, Objective, Player, Setting, Update
from compressor.models import batchnorm

GENERATOR = "generator"  # the player, and what those of an evolution begin with
COLLAPSED = 0.5  # share of log K below which the teacher sees too few classes in the images of an epoch
_MADE_AT_ONCE = 64  # images, outside of training
ENTROPY = "image_entropy"  # the note that says it


BatchNormUse = Literal["auto", "batch", "learning", "stored"]
_Beta = Annotated[float, Field(ge=0, lt=1)]
Betas = tuple[_Beta, _Beta]


class Generating(Config):
    """The generator, and how it is trained."""

    network: AnyGenerator = Upsample()
    train: Literal["gradient", "ce-gan"] = Field(
        default="gradient",
        description="gradient: a step of the losses; ce-gan: a step by each mutation, crossover and selection",
    )
    lr: PositiveFloat = Field(default=1e-3, description="of Adam; follows the schedule of the student's")
    betas: Betas = Field(default=(0.9, 0.999), description="of Adam")
    mutations: tuple[Measure, ...] = Field(
        default=("l1", "kl", "log-l1"), description="of ce-gan: the distances that mutants are trained by, one each"
    )
    crossover: bool = Field(default=True, description="of ce-gan: whether the two best mutants have an offspring")

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        fields = type(self).model_fields
        for key in ("mutations", "crossover"):
            if self.train != "ce-gan" and getattr(self, key) != fields[key].default:
                raise refusal(f"is for the training ce-gan, not {self.train}", key=key)
        if not self.mutations or len(set(self.mutations)) < len(self.mutations):
            raise refusal("must name at least one distance, and none twice", key="mutations")
        return self


class DataFree(Config):
    """The keys of every method without data."""

    kind: str
    needs: ClassVar[Needs] = Needs(data=False, gradients=True)

    told: ClassVar[bool] = False  # whether the generator is told of each image what classes it is to be of

    student_steps: PositiveInt = Field(default=5, description="of the student, for each step of the generator")
    generator: Generating = Generating()
    losses: GeneratorLoss = GeneratorLoss()
    student_batchnorm: BatchNormUse = Field(
        default="batch",
        description="whose statistics the student's BatchNorm uses: batch: its images'; learning: theirs while it "
        "learns, the stored ones while the generator does; stored: always the stored ones; auto: stored where the "
        "student begins with trained ones, else learning",
    )
    boundary_weight: NonNegativeFloat = Field(
        default=0.0, description="of the same lesson on boundary samples of the generated images; 0: none are made"
    )
    attack: Attack = Attack()

    @model_validator(mode="after")
    def _terms_have_what_they_need(self) -> Self:
        losses = self.losses
        if losses.activation_weight > 0 and losses.features is None:
            raise refusal("needs the path of a module in features", key="losses.activation_weight")
        if losses.label_weight > 0 and not self.told:
            raise refusal(f"is of classes, and {self.kind} asks for no classes", key="losses.label_weight")
        if losses.features is not None and losses.activation_weight == 0:
            raise refusal("is of activation_weight, and that is 0", key="losses.features")
        if losses.adversarial_weight == 0 and self.generator.train == "ce-gan":
            raise refusal(
                "needs mutants that differ, by the distance of student and teacher",
                key="generator.train",
                hint="set losses.adversarial_weight above 0",
            )
        if not any(value > 0 for name, value in losses if name.endswith("_weight")):
            raise refusal("has no term: the generator would learn nothing", key="losses")
        if self.attack != Attack() and self.boundary_weight == 0:
            raise refusal("is of boundary samples, and boundary_weight is 0", key="attack")
        return self

    def for_any_teacher(self) -> Self:
        """Return the method without what only some teachers have: BatchNorm statistics, modules by their path."""
        plain = {"statistics_weight": 0.0, "activation_weight": 0.0, "features": None}
        return self.model_copy(update={"losses": self.losses.model_copy(update=plain)})


class Draw(NamedTuple):
    """What images are made from: arguments of the maker, and the share of each class in each image, if any was asked.

    `code` holds tensors whose first dimension is the image; `labels` `[B, K]`.
    """

    code: tuple[Tensor, ...]
    labels: Tensor | None = None


class DataFreeObjective(Objective):
    """Student steps on fresh images, then one turn of the generator."""

    def __init__(self, config: DataFree, setting: Setting) -> None:
        super().__init__(setting)
        self.config = config
        trained = config.generator
        maker = self.maker()
        evolving = trained.train == "ce-gan"
        self.makers = Evolution(maker, trained.mutations, crossover=trained.crossover) if evolving else maker
        self.batchnorm = config.student_batchnorm
        if self.batchnorm == "auto":
            self.batchnorm = "stored" if batchnorm.trained(setting.student) else "learning"
        self.judge = Judge(config.losses, setting.teachers[0], self._judging)

    # What a method decides.

    def maker(self) -> nn.Module:
        """Build what makes images of a draw's code."""
        return self.config.generator.network.build(self.setting.image_kind())

    def draw(self, count: int, generator: torch.Generator) -> Draw:
        """Draw what so many images are made from."""
        noise = self.config.generator.network.noise
        return Draw((torch.randn(count, noise, generator=generator, device=generator.device),))

    def lesson(self, logits: Tensor, taught: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        """Return the student's terms from its logits and the teacher's, `[B, K]`, and the classes asked for, if any."""
        raise NotImplementedError

    # The game.

    @property
    def generator(self) -> nn.Module:
        """The generator as it stands."""
        return self.makers.survivor if isinstance(self.makers, Evolution) else self.makers

    def players(self) -> dict[str, Player]:
        makers, config = self.makers, self.config.generator
        adam = partial(torch.optim.Adam, betas=config.betas)

        def player(network: nn.Module, optimizer: Callable[[Any], torch.optim.Optimizer]) -> Player:
            return Player(parameters=network.parameters(), lr=config.lr, optimizer=optimizer, weight_decay=0)

        if not isinstance(makers, Evolution):
            return {GENERATOR: player(makers, adam)}
        return {_named(name): player(copy, makers.optimizer(name, adam)) for name, copy in makers.copies.items()}

    def updates(self, batch: Batch, moment: Moment) -> Iterator[Update]:
        for _ in range(self.config.student_steps):
            yield self._learn(self.draw(batch.wanted, moment.generator), moment)
        if isinstance(self.makers, Evolution):
            draws = (self.draw(batch.wanted, moment.generator) for _ in range(2))
            yield from self._evolve(self.makers, *draws)
            return
        draw = self.draw(batch.wanted, moment.generator)
        judged = self.judge(self.makers(*draw.code), draw.labels, self.config.losses.adversarial)
        yield Update(judged.terms(), player=GENERATOR)

    def images(self, count: int, generator: torch.Generator) -> Tensor:
        """Return images as they are used outside of training: in eval mode, so in `[0, 1]`."""
        sizes = [min(_MADE_AT_ONCE, count - start) for start in range(0, count, _MADE_AT_ONCE)]
        with as_found(self.generator), torch.no_grad():
            return torch.cat([self.generator(*self.draw(size, generator).code) for size in sizes])

    def warnings(self, notes: Mapping[str, float]) -> Iterator[str]:
        share = notes.get(ENTROPY)
        if share is not None and share < COLLAPSED:
            yield (
                f"the generator has collapsed: the teacher's predictions on its images have {share:.2f} of the entropy "
                f"of all classes; a balance_weight above {self.config.losses.balance_weight:g} spreads them"
            )

    def _learn(self, draw: Draw, moment: Moment) -> Update:
        """Return a step of the student on the images of a draw."""
        config, teacher = self.config, self.setting.teachers[0]
        with torch.no_grad():  # in training mode, so that the statistics of its BatchNorm move, as published
            images = self.generator(*draw.code)
        taught = ask(teacher, images)
        with _answering(self.setting.student, stored=self.batchnorm == "stored"):
            logits = self.setting.student(images).float()
            terms = self.lesson(logits, taught, draw.labels)
            if config.boundary_weight > 0:
                terms |= self._boundary(images, taught, moment)
        return Update(terms, notes={ENTROPY: entropy_share(taught)})

    def _boundary(self, images: Tensor, taught: Tensor, moment: Moment) -> dict[str, Tensor]:
        """Return the lesson on images walked from the teacher's class over its boundary; none has a class asked for."""
        config, count = self.config, self.config.attack.size
        start, logits = images[:count].clamp(0, 1), taught[:count]
        base = logits.argmax(dim=1)
        target = sample_targets(logits, base, moment.generator)
        samples = config.attack.build()(self.setting.teachers[0], start, base, target, scale=self.setting.std)
        terms = self.lesson(self.setting.student(samples.images).float(), samples.logits, None)
        return {f"boundary_{name}": config.boundary_weight * term for name, term in terms.items()}

    def _evolve(self, evolution: Evolution, first: Draw, second: Draw) -> Iterator[Update]:
        """Yield a generation. What an image is worth is what the method's own terms say of it."""
        losses = self.config.losses

        def by(measure: Measure) -> Callable[[Tensor], Tensor]:
            return lambda images: _total(self.judge(images, first.labels, measure))

        def score(images: Tensor) -> Score:
            judged = self.judge(images, second.labels, losses.adversarial)
            alone = -torch.stack(list(judged.images.values())).sum(dim=0)
            return Score(alone, self.setting.gather(-_total(judged)[None]).mean())  # all processes select the same

        turns = evolution.generation(
            lambda maker: maker(*first.code),
            lambda maker: maker(*second.code),
            {measure: by(measure) for measure in self.config.generator.mutations},
            score,
        )
        for name, loss in turns:
            yield Update({_named(name): loss}, player=_named(name))

    def _judging(self, images: Tensor) -> Tensor:
        with _answering(self.setting.student, stored=self.batchnorm != "batch"):
            logits: Tensor = self.setting.student(images)
        return logits


def _named(copy: str) -> str:
    return f"{GENERATOR}_{copy}"


def _total(judged: Judged) -> Tensor:
    return torch.stack(list(judged.terms().values())).sum()


@contextmanager
def _answering(student: nn.Module, *, stored: bool) -> Iterator[None]:
    """Let the student answer as it is, or with the statistics that its BatchNorm has stored."""
    training = [module for module in student.modules() if module.training and stored]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True
