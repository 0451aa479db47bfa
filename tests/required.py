"""The keys that have no default, by method: what a test that makes every method must give."""

REQUIRED = {
    "ackd": {"stages": ("layer1", "layer2")},
    "simkd": {"student": "layer3", "teacher": "layer3"},
}
