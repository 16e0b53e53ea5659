"""What stage 3 and FSDP do, by hand, for one linear layer: own some rows, gather all, compute, let go."""

import torch
import torch.distributed as dist


class ShardedLinear(torch.autograd.Function):
    """y = x W^T, where each rank owns an equal part of W's rows."""

    @staticmethod
    def forward(context, x, my_rows):
        context.save_for_backward(x, my_rows)
        return x @ gathered(my_rows).T  # W is whole for this one line

    @staticmethod
    def backward(context, grad_y):
        x, my_rows = context.saved_tensors
        grad_x = grad_y @ gathered(my_rows)  # and is gathered a second time
        return grad_x, my_part_of_mean(grad_y.T @ x)


def gathered(my_rows):
    whole = my_rows.new_empty(my_rows.shape[0] * dist.get_world_size(), my_rows.shape[1])
    dist.all_gather_into_tensor(whole, my_rows)
    return whole


def my_part_of_mean(grad):
    mine = grad.new_empty(grad.shape[0] // dist.get_world_size(), grad.shape[1])
    dist.reduce_scatter_tensor(mine, grad.contiguous())
    return mine / dist.get_world_size()
