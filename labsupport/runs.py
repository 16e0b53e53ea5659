"""A training run: what is trained, with which config, on how many ranks."""

WARM_UP_STEPS = 2  # optimizer steps that are not counted in the speed: buffers and Adam's states come up in them
