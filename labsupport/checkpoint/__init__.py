"""Checkpoints that survive: saved whole or not at all, verified before they are loaded, moved and exported."""
