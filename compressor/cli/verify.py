"""The command that checks a run against its manifest."""

from __future__ import annotations

import json

import typer

from compressor.cli.options import Json, Quiet, Target
from compressor.cli.output import tell_of
from compressor.errors import InputRejected


def verify(target: Target = None, as_json: Json = False, quiet: Quiet = False) -> None:
    """Check every file of a run against its manifest.

    Hashes tell whether an artifact is the one that was proved; ends with 4 when one is not.
    """
    from compressor.runs import manifest
    from compressor.runs.folder import find

    run = find(target)
    known, problems = manifest.read(run.folder), manifest.verify(run.folder)
    if as_json:
        typer.echo(json.dumps({"run": str(run.folder), "files": len(known.files), "problems": problems}, indent=2))
    if problems:
        raise InputRejected(
            f"{run.folder} is not as its manifest says: {'; '.join(problems)}",
            hint="restore the files, or export again",
        )
    tell_of(quiet)(f"{run.folder}: {len(known.files)} files are as the manifest says")
