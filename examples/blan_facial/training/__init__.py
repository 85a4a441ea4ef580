"""The training loop, checkpoints, logs and metrics."""
