"""AutoAttack: an ensemble of attacks without free parameters, as its authors publish it (Croce and Hein, ICML 2020).

It is the package pyautoattack, an extra. Bounded in Linf, with the authors' standard settings.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from compressor.attack.slope import as_found, ball
from compressor.errors import EnvironmentMissing

_TARGETS = 9  # likeliest other classes that the targeted attacks go for, in the standard version


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """`images` `[B, C, H, W]` after `attacks`: what decided an image wrongly, else the image as it was.

    `doubts` are the package's own warnings that the attack may be weaker than it should be, one of each kind.
    """

    images: Tensor
    attacks: tuple[str, ...]
    doubts: tuple[str, ...]


def require() -> None:
    """See that the package is there.

    Raises:
        EnvironmentMissing: it is not installed.
    """
    if find_spec("pyautoattack") is None:
        raise EnvironmentMissing(
            "validate.autoattack_samples needs AutoAttack, which is not installed",
            hint="pip install 'compressor[robust]'",
        )


def attacks_for(classes: int) -> tuple[str, ...]:
    """Return the attacks that there are for a number of classes, at least two, in the order that they are made.

    The targeted DLR loss needs the four best logits and the plain one three; FAB and Square need two.
    """
    if classes < 3:
        return ("apgd-ce", "fab-t", "square")
    return ("apgd-ce", "apgd-t" if classes > 3 else "apgd-dlr", "fab-t", "square")


def attack(
    network: nn.Module, images: Tensor, labels: Tensor, epsilon: float, *, seed: int, batch_size: int = 64
) -> Attacked:
    """Attack images in `[0, 1]`, no pixel by more than `epsilon`, until one of the attacks has succeeded or all failed.

    The network is left as found, and so are the generators of random numbers. An image that holds out costs nearly
    8,000 answers, a quarter of them with gradients.

    Raises:
        EnvironmentMissing: the package is not installed.
    """
    require()
    from pyautoattack import AutoAttack

    with as_found(network), _undisturbed(), _warnings() as doubts:
        with torch.no_grad():
            classes = network(images[:1]).shape[1]
        ensemble = AutoAttack(network, eps=epsilon, norm="Linf", seed=seed, device=images.device, version="standard")
        ensemble.attacks_to_run = list(attacks_for(classes))
        targets = min(_TARGETS, classes - 1)
        ensemble.apgd_targeted.n_target_classes = ensemble.fab.n_target_classes = targets
        moved, _ = ensemble.run_standard_evaluation(images, labels, batch_size=batch_size)
    if images.shape[2] != images.shape[3]:
        doubts["oblong"] = "Square Attack is made for images as high as wide"
    low, high = ball(images, epsilon)
    return Attacked(images=moved.clamp(low, high), attacks=attacks_for(classes), doubts=tuple(doubts.values()))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Put back what the package changes for the whole process: seeds, and the tracer of a debugger or of coverage."""
    tracer = sys.gettrace()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        sys.settrace(tracer)


def _sentence(message: str) -> str:
    """Return the first sentence of a warning, without its stop."""
    return re.split(r"[!.] ", message, maxsplit=1)[0].rstrip("!.")


@contextmanager
def _warnings() -> Iterator[dict[str, str]]:
    """Yield what the package warns of, the first sentence by the name of its check, and keep it off the terminal."""
    found: dict[str, str] = {}

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.funcName != "check_n_classes":  # we choose the attacks by the classes ourselves
                found.setdefault(record.funcName, _sentence(record.getMessage()))

    logger, collector = logging.getLogger("auto-attack"), Collector(logging.WARNING)
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(collector)
    try:
        yield found
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagates
