"""Training: the loop, its optimisers and schedules, the loss terms of an epoch."""
