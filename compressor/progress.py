"""What a person sees while a run works: sentences, and a bar for training. All of it on standard error."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from compressor.files import append_text
from compressor.machine.ranks import place
from compressor.printable import one_line

SILENCE_S = 30.0  # of a training where no bar is shown, after which a line says how far it is


class Tell:
    """Says sentences. `quiet` keeps silent but for what the caller prints itself.

    Of processes that train together only the first says any.
    """

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self.quiet = quiet or not place().leads
        self._log: Path | None = None

    def keep(self, log: Path) -> None:
        """Write what is said from now on into a file too, with the time."""
        self._log = log

    def __call__(self, sentence: str) -> None:
        sentence = one_line(sentence)  # it may hold names of classes and files
        if self._log is not None:
            append_text(self._log, f"{datetime.now(UTC).isoformat(timespec='seconds')} {sentence}\n")
        if not self.quiet:
            self.console.print(escape(sentence), soft_wrap=True)

    @contextmanager
    def training(self, *, epochs: int, batches: int, images: int, done: int = 0) -> Iterator["Training"]:
        """Show a training of which `done` epochs are done; each has so many batches and images.

        A terminal gets a bar, and a line an epoch; what is no terminal gets a line within long epochs too.
        """
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=self.quiet or not self.console.is_terminal,
        )
        with bar:
            task = bar.add_task(f"epoch {done + 1}/{epochs}", total=epochs * images, completed=done * images, speed="")
            yield Training(self, bar, task, epochs=epochs, batches=batches)


class Training:
    """The display of one training."""

    def __init__(self, tell: Tell, bar: Progress, task: TaskID, *, epochs: int, batches: int) -> None:
        self._tell, self._bar, self._task, self._epochs, self._batches = tell, bar, task, epochs, batches
        self._begun, self._images = time.monotonic(), 0
        self._said, self._said_images = self._begun, 0  # when the last line was said, and the images until then

    def advance(self, images: int, *, epoch: int, batch: int, losses: Mapping[str, float]) -> None:
        """Count the images of a batch that is about to be trained on.

        `epoch` and `batch` count from 0, so that they are done; `losses` are those of the epoch that are known by now.
        """
        now = time.monotonic()
        if now - self._said >= SILENCE_S and not self._tell.console.is_terminal:
            speed = (self._images - self._said_images) / (now - self._said)
            self._tell(
                f"epoch {epoch + 1:>3}/{self._epochs}  batch {batch:,}/{self._batches:,}  {_terms(losses)}"
                f"{speed:,.0f} images/s"
            )
            self._said, self._said_images = now, self._images
        self._images += images
        average = self._images / max(now - self._begun, 1e-9)
        self._bar.update(self._task, advance=images, speed=f"{average:,.0f} images/s")

    def epoch(
        self, number: int, losses: Mapping[str, float], *, top1: float | None, images_per_s: float, seconds: float
    ) -> None:
        """Say how epoch `number` (from 1) went; `seconds` is its length, from which the time left is reckoned."""
        accuracy = "" if top1 is None else f"validation {top1:.2f} %  "
        left = _duration((self._epochs - number) * seconds)
        self._tell(
            f"epoch {number:>3}/{self._epochs}  {_terms(losses)}{accuracy}{images_per_s:,.0f} images/s  {left} left"
        )
        self._said, self._said_images = time.monotonic(), self._images
        self._bar.update(self._task, description=f"epoch {min(number + 1, self._epochs)}/{self._epochs}")


def _terms(losses: Mapping[str, float]) -> str:
    return "".join(f"{name} {value:.4f}  " for name, value in losses.items())


def _duration(seconds: float) -> str:
    """Return hours and minutes, or minutes and seconds."""
    whole = math.ceil(seconds)
    minutes, rest = divmod(whole, 60)
    return f"{minutes // 60}h{minutes % 60:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
