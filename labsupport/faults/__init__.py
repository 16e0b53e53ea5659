"""Break training and checkpoints on purpose, and count what is lost. For the lab, the harness and its tests."""
