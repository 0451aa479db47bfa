"""The exporter of a format: one of `exporters`, or a plug-in that the user names. Nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from compressor.errors import InputRejected, UsageError, did_you_mean
from compressor.plugins import is_plugin, load_plugin
from exporters import EXPORTERS, Compiler, Exporter, Provider, exporter, provider_on

if TYPE_CHECKING:
    from compressor.recipe import Export

EXAMPLE = "myformats:ZIPPED, for ZIPPED in myformats.py"


def exporter_of(format_: str) -> Exporter:
    """Return the exporter of a format; `package.module:name` is imported, so it must be the user who named it.

    Raises:
        InputRejected: there is none.
        UsageError: the plug-in cannot be imported, or is not what `Exporter` asks for.
    """
    if format_ in EXPORTERS:
        return exporter(format_)
    if not is_plugin(format_):
        raise InputRejected(f"unknown format {format_!r}", hint=did_you_mean(format_, EXPORTERS))
    found = load_plugin(format_, example=EXAMPLE)
    problem = _problem(format_, found)
    if problem is not None:
        raise UsageError(f"{format_} is no exporter: {problem}", hint="docs/extending.md lists what an exporter has")
    return cast(Exporter, found)


def exporter_for(target: Export) -> Exporter:
    """Return the exporter of a target, after seeing that it can build that here: before anything slow.

    Raises:
        UsageError: a setting does not go with it.
        RuntimeMissing: its runtime, or the device it builds for, is not here.
    """
    found = exporter_of(target.format)
    misfit = target.misfit(found)
    if misfit is not None:
        raise UsageError(f"{misfit[0]} {misfit[1]}")
    found.require()
    return found


def format_of(path: Path) -> str | None:
    """Return the format in `EXPORTERS` that a file is of, by its suffix, and of those that share one by what it says.

    None for all others: checkpoints, and what a plug-in wrote.
    """
    same = [name for name in EXPORTERS if exporter(name).SUFFIXES[0] == path.suffix]
    if len(same) > 1 and path.is_file():
        return cast(Compiler, exporter(same[0])).described(path).format
    return same[0] if same else None


def opened_by(format_: str, suffix: str) -> bool:
    """Whether a name is that of a format in `EXPORTERS` whose runtime opens files of a suffix, too."""
    return format_ in EXPORTERS and suffix in exporter(format_).SUFFIXES


def provider_of(format_: str, device: str) -> str:
    """Return what runs a format for someone who works on a kind of device: OpenVINO has the CPU only, a plan a GPU."""
    return provider_on(exporter_of(format_), device)


def _problem(name: str, found: Any) -> str | None:
    """Return what a plug-in lacks of an exporter, as the end of a sentence."""
    if isinstance(found, type):
        return f"it is a class, and an object of it is wanted: {found.__name__.upper()} = {found.__name__}()"
    missing = next((each for each in _members(Exporter) if not hasattr(found, each)), None)
    if missing is None and found.COMPILED:
        missing = next((each for each in _members(Compiler) if not hasattr(found, each)), None)
    if missing is not None:
        return f"it has no {missing}"
    if name != found.FORMAT:
        return f"its FORMAT is {found.FORMAT!r}, and must be the name that it is asked for by"
    if not isinstance(found.SUFFIXES, tuple) or not found.SUFFIXES:
        return "its SUFFIXES are not a tuple such as ('.zonnx',)"
    taken = format_of(Path(f"any{found.SUFFIXES[0]}"))
    if taken is not None:
        return f"its suffix {found.SUFFIXES[0]} is that of the format {taken}"
    if not isinstance(found.QUANTIZATIONS, tuple) or not found.QUANTIZATIONS:
        return "its QUANTIZATIONS are not a tuple such as ('cpu',)"
    providers = found.PROVIDERS.values() if isinstance(found.PROVIDERS, Mapping) else ()
    if not providers or not all(isinstance(each, Provider) for each in providers):
        return "its PROVIDERS are not a mapping of names to exporters.Provider"
    return None


def _members(protocol: type) -> list[str]:
    return [name for name in vars(protocol) if not name.startswith("_")]
