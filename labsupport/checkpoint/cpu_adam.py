"""Let DeepSpeed's Adam for offloaded states go on to the bit after a load.

Its C++ part multiplies up the powers of the betas that correct Adam's bias, step by step; one that begins in the middle
takes them by std::pow, which differs in the last bit (csrc/includes/cpu_adam.h, IncrementStep). So it counts again.
"""

import torch


def count_again(optimizer):
    """Bring the C++ part of a DeepSpeedCPUAdam to the step that its states have; others are left alone."""
    if type(optimizer).__name__ != "DeepSpeedCPUAdam":
        return
    steps = max((state.get("step", 0) for state in optimizer.state.values()), default=0)
    group = optimizer.param_groups[0]
    nothing = [torch.zeros(1) for _ in range(4)]  # parameter, gradient, and the two averages
    for step in range(1, int(steps) + 1):
        optimizer.ds_opt_adam.adam_update(
            optimizer.opt_id, step, 0.0, *group["betas"], group["eps"], 0.0, group["bias_correction"], *nothing
        )
