"""Few labels, many images without: a classifier between a generator of good and one of bad samples (UGAN)."""

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from compressor.batch import Batch
from compressor.generators import MLP, AnyGenerator, Generator
from compressor.methods.adaptation import ClassifierInputs
from compressor.methods.batchnorm import normalising
from compressor.methods.kd import ask
from compressor.methods.losses.kl import KL
from compressor.methods.losses.relations import cosines
from compressor.methods.protocol import Config, Moment, Needs, Objective, Player, Setting, Update, refusal
from compressor.methods.weights import Weight

_NOISE = 0.2  # standard deviation of what is added before each layer of the discriminator
_LEAK = 0.2


class UGAN(Config):
    """Few labels, and generators of good and of bad samples (Li et al., Machine Vision and Applications 2020).

    Source: "Semi-supervised Learning using Adversarial Training with Good and Bad Samples", arXiv:1910.08540, with the
    losses of the first author's code. It joins Triple-GAN, whose good generator makes images of a class, and Bad GAN,
    whose bad one makes images between the classes.

    `CE + good_weight L_g + bad_weight L_b`, the student being the classifier. With `D` the discriminator of pairs:

    - `L_g = entropy_weight H(x_u) + pair_weight max_k p_k(x_u) bce(D(x_u, p(x_u)), 1)
      + generated_weight CE(G_g(z, y), y) + balance_weight B`, with `B = -mean_k log(mean p_k(x_u))`.
    - `L_b = 1/2 softplus(-LSE(x_u)) + 1/2 softplus(LSE(G_b(z)))
      + smoothness_weight |l(G_b(z + e)) - l(G_b(z))|^2`, with `LSE` over the logits `l`: an image is real as far as it
      is of any class.
    - `D` tells labelled pairs from generated pairs and from unlabelled images with what the student says of them;
      `G_g` deceives it.
    - `G_b` matches the mean features of unlabelled images, `|mean f(G_b(z)) - mean f(x_u)|_1`, its own being spread by
      `pull_away` times the mean squared cosine of different ones. Features are what the last linear layer is given.

    The entropy and the balance go with the bad generator alone too, as they do in the code, by `bad_weight` then.
    Not published are `good_weight`, `bad_weight` and `perturbation`; `generated_weight` rises to its published value
    instead of stepping there. Each kind of image goes through the student in a pass of its own, so that BatchNorm does
    not mix them; generated ones leave its running statistics as they are. A teacher, where there is one, teaches on the
    unlabelled images, which is ours.
    """

    kind: Literal["ugan"] = "ugan"
    good_weight: NonNegativeFloat = Field(
        default=1.0, description="of the loss with good samples; 0: no such generator"
    )
    bad_weight: NonNegativeFloat = Field(default=1.0, description="of the loss with bad samples; 0: no such generator")
    good: AnyGenerator = Field(default=MLP(), description="the generator of good samples")
    bad: AnyGenerator = Field(default=MLP(), description="the generator of bad samples")
    generator_lr: PositiveFloat = Field(default=1e-3, description="of Adam, for generators and discriminator")
    input_noise: NonNegativeFloat = Field(
        default=0.0, description="standard deviation added to what the student sees in training, in pixels of [0, 1]"
    )
    discriminator_width: PositiveInt = Field(default=1000, description="of its first layer; the others are narrower")
    entropy_weight: NonNegativeFloat = 0.3
    pair_weight: NonNegativeFloat = 0.005
    generated_weight: Weight = Weight((0.0, 0.1))
    balance_weight: NonNegativeFloat = 1e-3
    smoothness_weight: NonNegativeFloat = 1e-3
    perturbation: PositiveFloat = Field(default=0.1, description="standard deviation of what is added to the noise")
    pull_away: NonNegativeFloat = 0.8
    kd_weight: Weight = Weight(1.0)
    temperature: PositiveFloat = Field(default=4.0, description="of the teacher, where there is one")
    needs: ClassVar[Needs] = Needs(teachers=0, most=1, unlabelled=True)

    @model_validator(mode="after")
    def _images_stay_in_their_range(self) -> Self:
        for key in ("good", "bad"):
            if getattr(getattr(self, key), "end", None) == "batchnorm":
                raise refusal(
                    "makes images outside [0, 1] in training, which no image of the data is",
                    key=f"{key}.end",
                    hint="sigmoid or tanh",
                )
        return self

    def build(self, setting: Setting) -> Objective:
        return GoodBadGAN(self, setting)


class GoodBadGAN(Objective):
    """The turns that `UGAN` describes: discriminator, good generator, bad generator, student."""

    def __init__(self, config: UGAN, setting: Setting) -> None:
        super().__init__(setting)
        self.config = config
        self.good = self.pair = self.bad = None
        if config.good_weight > 0:
            self.good = config.good.build(setting.image_kind(setting.classes))
            self.pair = PairDiscriminator(setting.input_shape, setting.classes, config.discriminator_width)
        if config.bad_weight > 0:
            self.bad = config.bad.build(setting.image_kind())
            self.features = ClassifierInputs(setting.student, setting.classes, "student")
        self.soft = KL(temperature=config.temperature, t2=True).build(setting)

    def players(self) -> dict[str, Player]:
        networks = {"pair": self.pair, "good": self.good, "bad": self.bad}
        adam = partial(torch.optim.Adam, betas=(0.5, 0.999))
        return {
            name: Player(parameters=network.parameters(), lr=self.config.generator_lr, optimizer=adam, weight_decay=0.0)
            for name, network in networks.items()
            if network is not None
        }

    def updates(self, batch: Batch, moment: Moment) -> Iterator[Update]:
        assert batch.unlabelled is not None  # which `needs` says
        if self.good is not None and self.pair is not None:
            yield from self._pair_and_good(self.good, self.pair, batch, batch.unlabelled, moment)
        if self.bad is not None:
            yield self._bad(self.bad, batch.unlabelled, moment)
        yield self._student(batch, batch.unlabelled, moment)

    def _pair_and_good(
        self, good: nn.Module, pair: nn.Module, batch: Batch, unlabelled: Tensor, moment: Moment
    ) -> Iterator[Update]:
        count = len(unlabelled)
        noise, classes = _noise(self.config.good, count, moment), self._classes(count, moment)
        with torch.no_grad(), normalising(self.setting.student):
            made, said = good(noise, classes), self._answer(unlabelled).softmax(dim=1)
        labels = F.one_hot(batch.labels, self.setting.classes).float()
        yield Update(
            {
                "pair_labelled": _is(pair(batch.images, labels)),
                "pair_good": 0.5 * _is_not(pair(made, classes)),
                "pair_said": 0.5 * _is_not(pair(unlabelled, said)),
            },
            player="pair",
        )
        yield Update({"good": 0.5 * _is(pair(good(noise, classes), classes))}, player="good")

    def _bad(self, bad: nn.Module, unlabelled: Tensor, moment: Moment) -> Update:
        made = bad(_noise(self.config.bad, len(unlabelled), moment))
        with normalising(self.setting.student):
            with torch.no_grad():
                self._answer(unlabelled)
                real = self.features.features()
            self._answer(made)
            ours = self.features.features()
        terms = {"bad_match": (ours.mean(dim=0) - real.mean(dim=0)).abs().mean()}
        if self.config.pull_away > 0:
            terms["bad_spread"] = self.config.pull_away * pulled(ours)
        return Update(terms, player="bad")

    def _student(self, batch: Batch, unlabelled: Tensor, moment: Moment) -> Update:
        config = self.config
        terms = {"ce": F.cross_entropy(self._answer(batch.images), batch.labels)}
        logits = self._answer(unlabelled)
        if (weight := config.good_weight or config.bad_weight) > 0:
            said = logits.softmax(dim=1)
            terms["entropy"] = weight * config.entropy_weight * -(said * logits.log_softmax(dim=1)).sum(dim=1).mean()
            terms["balance"] = weight * config.balance_weight * balance(said)
        if self.setting.teachers and (weight := config.kd_weight.at(moment.elapsed)) > 0:
            terms["kd"] = weight * self.soft(logits, ask(self.setting.teachers[0], unlabelled), None).mean()
        notes: dict[str, Tensor] = {}
        with normalising(self.setting.student):
            if self.good is not None and self.pair is not None:
                terms |= self._from_good(self.good, self.pair, unlabelled, logits, moment, notes)
            if self.bad is not None:
                terms |= self._from_bad(self.bad, logits, moment, notes)
        return Update(terms, notes=notes)

    def _from_good(
        self,
        good: nn.Module,
        pair: nn.Module,
        unlabelled: Tensor,
        logits: Tensor,
        moment: Moment,
        notes: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        """Return the terms of `L_g` that need its generator.

        `notes` gets `good_right`, the share of good samples that are of their class.
        """
        config, count = self.config, len(unlabelled)
        classes = self._classes(count, moment)
        with torch.no_grad():
            made = good(_noise(config.good, count, moment), classes)
        answer = self._answer(made)
        notes["good_right"] = (answer.argmax(dim=1) == classes.argmax(dim=1)).float().mean()
        said = logits.softmax(dim=1)
        terms = {
            "pair": config.pair_weight * (said.amax(dim=1) * F.softplus(-pair(unlabelled, said))).mean(),
            "generated": config.generated_weight.at(moment.elapsed) * F.cross_entropy(answer, classes),
        }
        return {name: config.good_weight * term for name, term in terms.items()}

    def _from_bad(self, bad: nn.Module, logits: Tensor, moment: Moment, notes: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the terms of `L_b`; `notes` gets `bad_real`, the share of bad samples that are taken for real."""
        config = self.config
        noise = _noise(config.bad, len(logits), moment)
        moved = noise + config.perturbation * _noise(config.bad, len(logits), moment)
        with torch.no_grad():
            made, near = bad(noise), bad(moved)
        answer, further = self._answer(made), self._answer(near)
        notes["bad_real"] = (answer.logsumexp(dim=1) > 0).float().mean()
        terms = {
            "real": 0.5 * F.softplus(-logits.logsumexp(dim=1)).mean(),
            "fake": 0.5 * F.softplus(answer.logsumexp(dim=1)).mean(),
            "smooth": config.smoothness_weight * (further - answer).square().sum(dim=1).mean(),
        }
        return {name: config.bad_weight * term for name, term in terms.items()}

    def _answer(self, images: Tensor) -> Tensor:
        """Return the student's logits of images in training, `[B, K]` float32."""
        noise = self.config.input_noise
        logits: Tensor = self.setting.student(images + noise * torch.randn_like(images) if noise > 0 else images)
        return logits.float()

    def _classes(self, count: int, moment: Moment) -> Tensor:
        """Draw classes, `[count, K]` as one-hot rows."""
        device = moment.generator.device
        drawn = torch.randint(self.setting.classes, (count,), generator=moment.generator, device=device)
        return F.one_hot(drawn, self.setting.classes).float()


class PairDiscriminator(nn.Module):
    """Images `[B, C, H, W]` and a share of each class `[B, K]` to a logit `[B]`: is this a labelled image?

    Five hidden layers, weight-normalised, with noise before each, as Triple-GAN has them on MNIST; noise is added in
    training alone.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, width: int) -> None:
        super().__init__()
        pixels = shape[0] * shape[1] * shape[2]
        hidden = [width, *(max(width // share, 1) for share in (2, 4, 4, 4))]
        sizes = [pixels + classes, *hidden, 1]
        self.layers = nn.ModuleList(weight_norm(nn.Linear(*pair)) for pair in pairwise(sizes))

    def forward(self, images: Tensor, classes: Tensor) -> Tensor:
        x = torch.cat([images.flatten(1), classes.to(images.dtype)], dim=1)
        for number, layer in enumerate(self.layers):
            if number:
                x = F.leaky_relu(x, _LEAK)
            x = layer(x + _NOISE * torch.randn_like(x) if self.training else x)
        return x.squeeze(1).float()


def pulled(features: Tensor) -> Tensor:
    """Return how alike features `[N, D]` are: the mean squared cosine of different ones, in `[0, 1]`."""
    count = len(features)
    squares = cosines(features).square()
    return (squares.sum() - squares.diagonal().sum()) / max(count * (count - 1), 1)


def balance(said: Tensor) -> Tensor:
    """Return `-mean_k log(mean of p_k)` of probabilities `[B, K]`: log K where all classes are met alike, else more."""
    return -said.mean(dim=0).clamp_min(torch.finfo(said.dtype).tiny).log().mean()


def _noise(config: Generator, count: int, moment: Moment) -> Tensor:
    return torch.randn(count, config.noise, generator=moment.generator, device=moment.generator.device)


def _is(logits: Tensor) -> Tensor:
    """Return the binary cross entropy of logits that should say yes."""
    return F.softplus(-logits).mean()


def _is_not(logits: Tensor) -> Tensor:
    return F.softplus(logits).mean()
