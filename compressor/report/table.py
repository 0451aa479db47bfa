"""Terminal tables: one row a file, teacher first; one row a gate."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from compressor.report.numbers import count, megabytes, milliseconds, number, times
from compressor.report.terminal import escape
from compressor.runs.record import Gate, Metrics, Network, Result, batches, speed_up

# Costs of the largest batch beyond its latency, shown where they were measured.
COSTS = {"memory_mb": ("memory MB", ",.1f"), "gpu_memory_mb": ("GPU MB", ",.1f"), "energy_j": ("J a batch", ".3g")}
Row = tuple[str, Metrics, Network | None]  # what to call it, what was measured, the network it holds


def summary(result: Result) -> Table:
    """Return one table of teacher, student and artifacts; a dash stands for what was not measured."""
    rows = [(file.label, file.metrics, file.network) for file in result.files()]
    return _table(rows, f"{result.name}: {result.data.source}, {result.data.measured}")


def single(metrics: Metrics) -> Table:
    """Return the table of one file."""
    return _table([(metrics.label, metrics, None)], metrics.path)


def gates(verdicts: Sequence[Gate]) -> Table:
    """Return one row a promise."""
    table = Table("gate", "file", "verdict", "why", title="gates", title_justify="left", box=box.SIMPLE_HEAD)
    for verdict in verdicts:
        why = verdict.detail.removeprefix(f"{verdict.verdict}: ")
        colour = {True: "green", False: "red", None: "yellow"}[verdict.passed]
        table.add_row(escape(verdict.gate), escape(verdict.artifact), f"[{colour}]{verdict.verdict}[/]", escape(why))
    return table


def _table(rows: Sequence[Row], title: str) -> Table:
    timed = batches(metrics for _, metrics, _ in rows)
    costs = [cost for cost in COSTS if any(_cost(metrics, cost) is not None for _, metrics, _ in rows)]
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ["", "network"]:
        table.add_column(heading, no_wrap=True)
    headings = ["params", "MB", "top-1 %", "agree", "boundary", "ECE", "PGD %"]
    autoattacked = any(metrics.autoattack_top1 is not None for _, metrics, _ in rows)
    headings += ["AutoAttack %"] if autoattacked else []
    headings += [f"b{batch} ms" for batch in timed]
    headings += ["speed-up"] if timed else []
    similar = any(metrics.magsim is not None for _, metrics, _ in rows)
    headings += ["MagSim", "AngSim"] if similar else []
    elsewhere = any(metrics.target_top1 is not None for _, metrics, _ in rows)
    headings += ["target %"] if elsewhere else []
    made = list(dict.fromkeys(kind for _, metrics, _ in rows for kind in metrics.made_agreement or {}))
    headings += [f"agree, {kind}" for kind in made]
    for heading in [*headings, *(COSTS[cost][0] for cost in costs)]:
        table.add_column(heading, justify="right", no_wrap=True)
    for label, metrics, network in rows:
        cells = [
            escape(label),
            "?" if network is None or network.arch is None else escape(network.arch),
            count(None if network is None else network.parameters),
            megabytes(metrics.size_bytes),
            number(metrics.top1, ".2f"),
            number(metrics.agreement, ".3f"),
            number(metrics.boundary_agreement, ".3f"),
            number(metrics.ece, ".3f"),
            number(metrics.pgd_top1, ".1f"),
        ]
        cells += [number(metrics.autoattack_top1, ".1f")] if autoattacked else []
        cells += [milliseconds(None if timing is None else timing.p50) for timing in map(metrics.timing, timed)]
        if timed:
            cells.append(times(speed_up(metrics, rows[0][1], timed[0])))
        cells += [number(metrics.magsim, ".2f"), number(metrics.angsim, ".2f")] if similar else []
        cells += [number(metrics.target_top1, ".2f")] if elsewhere else []
        cells += [number((metrics.made_agreement or {}).get(kind), ".3f") for kind in made]
        cells += [number(_cost(metrics, cost), COSTS[cost][1]) for cost in costs]
        table.add_row(*cells)
    return table


def _cost(metrics: Metrics, key: str) -> float | None:
    """Return what the largest batch that was measured costs."""
    timed = batches([metrics])
    cost: float | None = getattr(metrics.timing(timed[-1]), key) if timed else None
    return cost
