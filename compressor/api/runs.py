"""A run whose student is trained: what is done with it."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from torch import nn

from compressor import checkpoint, pipeline
from compressor.api.given import Settings, overrides, path_of, tell_of
from compressor.pipeline.bench import NO_OPTIONS, BenchOptions
from compressor.pipeline.finished_run import stored_recipe
from compressor.progress import Tell
from compressor.recipe import Recipe, load
from compressor.runs import folder as run_folder
from compressor.runs import record


@dataclass(frozen=True)
class Run:
    """A run folder whose student is trained. The record is read from it anew each time, so it is never stale.

    `allow` is code of your own, `package.module:name`, that the run may import: what its recipe names is imported only
    where you name it too, since a run folder may come from elsewhere. The functions here name what they were given.
    """

    folder: Path
    allow: tuple[str, ...] = ()

    @property
    def result(self) -> record.Result:
        """All that is known of the run, as `result.json` has it."""
        return record.read(self.folder)

    @property
    def recipe(self) -> Recipe:
        """What was asked for, every default written out. Code that it names is not imported for this."""
        return load(run_folder.Run(self.folder).recipe)

    @property
    def student(self) -> nn.Module:
        """The student, in eval mode on the CPU: images `[B, C, H, W]` in `[0, 1]` to logits `[B, K]`."""
        stored = run_folder.Run(self.folder)
        arch = stored_recipe(stored, allow=self.allow).student.arch
        return checkpoint.load_network(stored.student, arch=arch).module.eval()

    def export(
        self, *, settings: Settings | None = None, device: str | None = None, tell: Tell | None = None, **target: Any
    ) -> record.Result:
        """Export the student, and prove the file; see `export`. Without any key, all that the recipe exports."""
        place = ("export", 0)
        keys = [*overrides(target, below=place), *overrides(settings, below=place)]
        return pipeline.export(self.folder, tell_of(tell), overrides=keys, device=device, allow=self.allow)

    def validate(
        self,
        *,
        settings: Settings | None = None,
        device: str | None = None,
        out: Path | str | None = None,
        tell: Tell | None = None,
    ) -> record.Result:
        """Measure every file on the same images, boundary images among them.

        Args:
            settings: keys of the recipe for this call only, `{"validate.boundary_samples": 64}`.
            out: a folder for a copy of the run without its training states, which is measured in its place.
        """
        return pipeline.validate(
            self.folder,
            tell_of(tell),
            device=device,
            overrides=overrides(settings),
            allow=self.allow,
            out=path_of(out),
        )

    def benchmark(
        self,
        *,
        settings: Settings | None = None,
        device: str | None = None,
        options: BenchOptions = NO_OPTIONS,
        tell: Tell | None = None,
    ) -> record.Result:
        """Time every file, in turn; see `benchmark`."""
        return pipeline.bench(
            self.folder,
            tell_of(tell),
            device=device,
            options=options,
            overrides=overrides(settings, below=("bench",)),
            allow=self.allow,
        )

    def report(self, *, tell: Tell | None = None) -> Path:
        """Write the page of the run, and return where it is."""
        return pipeline.report([self.folder], tell_of(tell), allow=self.allow)

    def _repr_html_(self) -> str:
        """What a notebook shows of a run: the table of its files."""
        cells = (
            (file.label, "" if file.metrics.top1 is None else f"{file.metrics.top1:.2f} %", file.metrics.size_bytes)
            for file in self.result.files()
        )
        rows = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in cells)
        head = "<tr><th>file</th><th>top-1</th><th>bytes</th></tr>"
        return f"<b>{escape(str(self.folder))}</b><table>{head}{rows}</table>"
