"""A command whose mistakes and interruptions are told like all else: in one sentence, with a hint."""

from __future__ import annotations

import inspect
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from functools import wraps
from typing import Any, get_type_hints

import typer
from typer.core import TyperCommand

from compressor.cli.surroundings import require_date
from compressor.errors import Interrupted, UsageError, did_you_mean
from compressor.machine.ranks import started_together

# Click's UsageError, which Typer does not export: newer versions have a copy of Click of their own.
_Refused: type[Exception] = typer.BadParameter.__mro__[1]
_CLOSE = 0.7
_TOGETHER = ("train", "distill", "run")  # what several processes do together


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Command(TyperCommand):
    """Typer's command with its mistakes in the words of this one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Return the arguments that are left.

        Raises:
            UsageError: an option or an argument is unknown, missing or has a value that it cannot have.
        """
        try:
            return super().parse_args(ctx, args)
        except _Refused as error:
            raise _said(error, ctx) from None

    def invoke(self, ctx: Any) -> Any:
        """Run the command; SIGTERM and Ctrl-C end it with an exception, so that scratch files go.

        Raises:
            Interrupted: it was stopped, and had nothing to save.
            UsageError: the environment dates files by what is no time, or several processes were started for what one
                does.
        """
        require_date()
        if started_together() and self.name not in _TOGETHER:
            raise UsageError(
                f"compress {self.name} is for one process, and several were started",
                hint="leave torchrun out, or unset RANK and WORLD_SIZE",
            )
        taken = [each for each in _SIGNALS if signal.getsignal(each) != signal.SIG_IGN]
        before = {each: signal.signal(each, signal.default_int_handler) for each in taken}
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("interrupted; what was finished before is kept") from None
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


def laid_out(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command as Typer takes it: parameters that are groups of options, dataclasses, become their fields."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}

    def options() -> Iterator[inspect.Parameter]:
        for parameter in inspect.signature(command).parameters.values():
            group = groups.get(parameter.name)
            within = [parameter] if group is None else inspect.signature(group).parameters.values()
            types = hints if group is None else get_type_hints(group, include_extras=True)
            yield from (
                each.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=types[each.name]) for each in within
            )

    @wraps(command)
    def grouped(**typed: Any) -> None:
        for name, group in groups.items():
            typed[name] = group(**{field.name: typed.pop(field.name) for field in fields(group)})
        command(**typed)

    grouped.__signature__ = inspect.Signature(list(options()))  # type: ignore[attr-defined]  # what Typer reads
    return grouped


def _said(error: Any, ctx: Any) -> UsageError:
    more = f"{ctx.command_path} --help"
    options = [name for each in ctx.command.params for name in (*each.opts, *each.secondary_opts)]
    unknown = getattr(error, "option_name", None)
    if unknown is not None and unknown not in options:
        close = get_close_matches(unknown.lstrip("-"), [name.lstrip("-") for name in options], cutoff=_CLOSE)
        hint = f"did you mean --{' or --'.join(close)}?" if close else f"{more} lists the options"
        return UsageError(f"{ctx.command_path} has no option {unknown}", hint=hint)
    if isinstance(error, typer.BadParameter) and error.message and error.param is not None:
        return _bad_value(max(error.param.opts, key=len), error)
    return UsageError(_sentence(error.format_message()), hint=more)


def _bad_value(option: str, error: typer.BadParameter) -> UsageError:
    """Return the refusal of a value in one sentence, which Typer may have from Pydantic, and then without the value."""
    from pydantic import ValidationError

    words = error.message.removeprefix("Value error, ")
    choice = re.match(r"'(.*)' is not one of (.*)", words)
    if choice is not None:
        return UsageError(
            f"{option}: {_sentence(words)}", hint=did_you_mean(choice[1], re.findall("'([^']*)'", choice[2]))
        )
    if isinstance(error.__cause__, ValidationError):
        words = re.sub("^Input should be (.*?)(, unable to parse .*)?$", r"must be \1", words)
        words += f", got {error.__cause__.errors()[0]['input']!r}"
    return UsageError(f"{option}: {_sentence(words)}")


def _sentence(text: str) -> str:
    return text[:1].lower() + text[1:].rstrip(".")
