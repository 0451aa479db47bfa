"""The gates there are, and what their limits are counted in."""

# Every gate with the unit of its limit. `min_` promises at least the limit, all others at most.
UNITS = {
    "max_accuracy_drop": " points",
    "min_top1": " %",
    "min_agreement": "",
    "min_boundary_agreement": "",
    "max_class_drop": " points",
    "max_parity_error": "",
    "p50_ms": " ms",
    "p99_ms": " ms",
    "min_speedup": "x",
    "max_size_mb": " MB",
    "min_robust_top1": " %",
    "max_ece": "",
    "max_top1_regression": " points",
    "max_agreement_regression": "",
    "max_latency_regression": " %",
    "max_size_regression": " %",
}
REGRESSIONS = tuple(gate for gate in UNITS if gate.endswith("_regression"))  # against the baseline
SPEEDUP_BATCH = 1
