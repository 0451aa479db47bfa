"""What a run measured, and the ways to show it.

`record` is what was measured, `contents` all else that is known of a run. `table` shows it in a terminal; `html` on a
page, made of `sections` and `figures`; `markdown`, `junit` and `github` to a CI server, in the files of `ci`.
`difference` is the record of `compress diff`, `comparison` what `compress compare` found. `rendering` fills in all
`templates`.
"""

from compressor.report.table import gates, single, summary
from compressor.runs.record import Artifact, Gate, Metrics, Network, Parity, Result, Timing

__all__ = ["Artifact", "Gate", "Metrics", "Network", "Parity", "Result", "Timing", "gates", "single", "summary"]
