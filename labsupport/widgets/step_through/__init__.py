"""One recorded training step, step by step."""
