"""What offload moves between a GPU and its host in one step of DeepSpeed 0.19.8, read in its source. No torch."""


def host_link_bytes(stage, accumulation_steps=1, parameter_bytes=2, *, optimizer=True, parameters=False):
    """Return the bytes that go over the link, either way, for each parameter of a rank's part.

    optimizer, parameters: what is offloaded. At the end of a step the gradient goes down in fp32, cast on the GPU
    (zero/stage_1_and_2.py, async_inplace_copy_grad_to_fp32_buffer_from_gpu; stage3.py, _offload_grad_partition_at_
    boundary). Before that stage 1 adds its micro-batches up on the GPU; stage 2, with accumulation, copies the sum down
    in every micro-batch and up again before each later one (async_accumulate_grad_in_cpu_via_gpu); stage 3 copies it
    down and up in every micro-batch, also where there is one (partition_grads). The new parameters go up once, or,
    where they live on the host, for the forward and for the backward pass of every micro-batch.
    """
    steps, copies = accumulation_steps, 0
    if optimizer:
        copies += {2: 2 * steps - 1 if steps > 1 else 0, 3: 2 * steps}.get(stage, 0)
    if parameters:
        copies += 2 * steps + (0 if optimizer else 1)
    elif optimizer:
        copies += 1
    return copies * parameter_bytes + (4 if optimizer else 0)
