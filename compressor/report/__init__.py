"""What a run measured: the record, and the ways to show it."""

from compressor.report.record import Artifact, Gate, Metrics, Network, Parity, Result, Timing
from compressor.report.table import gates, single, summary

__all__ = ["Artifact", "Gate", "Metrics", "Network", "Parity", "Result", "Timing", "gates", "single", "summary"]
