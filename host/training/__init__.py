"""A training run: settings, data, steps, checkpoints, the adapter that it leaves."""
