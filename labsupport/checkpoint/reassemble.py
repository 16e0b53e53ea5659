"""Put a checkpoint of another stage, another number of ranks or another place of the states into an engine.

Each parameter is put together whole, one at a time, and each rank takes the part that its own stage gives it: the same
idea as DeepSpeed's universal checkpoint, without its files. What DeepSpeed restores beside them, counters, scheduler
and loss scaler, is restored here as `engine.load_checkpoint` does it.
"""

import torch

from labsupport.checkpoint.drive import new_row, states_in_reach
from labsupport.checkpoint.whole import WholeStates

# What training has brought a group of the optimizer to; how the optimizer computes is this run's own.
REACHED = ("lr", "initial_lr", "betas", "eps", "weight_decay", "momentum")


def trained_groups(engine):
    """Return the names of the parameters that the engine trains, a list for each parameter group of its optimizer."""
    names, optimizer = _names(engine), engine.optimizer
    stage = engine.zero_optimization_stage()
    if stage == 3:  # which has cut the groups into smaller ones
        groups = [[] for _ in optimizer.optimizer.param_groups]
        for number, part in enumerate(optimizer.fp16_groups):
            groups[optimizer.sub_group_to_group_id[number]] += part
    else:
        groups = optimizer.bit16_groups if stage else _groups_at_stage_0(engine)
    return [[names[id(parameter)] for parameter in group] for group in groups]


def trained_names(engine):
    """Return the names of the parameters that the engine trains, in the order of its optimizer."""
    return _flat(trained_groups(engine))


@torch.no_grad()
def put_weights(engine, states, of_optimizer=lambda name: {}):
    """Put the weights of a WholeStates into the engine, and the optimizer's states that `of_optimizer` names."""
    put = (_put_whole, _put_into_row, _put_into_row, _put_into_parts)[engine.zero_optimization_stage()]
    with states_in_reach(engine):
        put(engine, states, of_optimizer)
    _put_frozen(engine.module, states)


def reassemble(engine, folder, trained):
    """Put all states of a tag's folder into the engine and return DeepSpeed's client state. Collective.

    trained: the names of the trained parameters in the order in which they were saved, which stage 0 does not keep.
    """
    states, optimizer, base = WholeStates(folder, trained), engine.optimizer, _base_optimizer(engine)
    put_weights(engine, states, states.of_optimizer)
    for group, settings in zip(base.param_groups, states.groups, strict=True):
        group.update({key: settings[key] for key in REACHED if key in settings and key in group})
    saved = states.model_states
    if engine.lr_scheduler is not None and saved["lr_scheduler"] is not None:
        engine.lr_scheduler.load_state_dict(saved["lr_scheduler"])
    for counter in ("global_steps", "global_samples", "skipped_steps"):
        setattr(engine, counter, saved[counter])
    if engine.fp16_enabled():
        scaler = optimizer.loss_scaler if engine.zero_optimization_stage() else optimizer.loss_scale_config
        for key, value in states.loss_scaler.items():
            if hasattr(scaler, key):
                setattr(scaler, key, value)
    return saved


def _put_whole(engine, states, of_optimizer):
    if hasattr(engine.optimizer, "fp32_groups_flat"):
        _put_into_whole_rows(engine, states, of_optimizer)
        return
    names, base = _names(engine), _base_optimizer(engine)
    masters = getattr(engine.optimizer, "fp32_groups", None)
    masters = _flat(masters) if masters else _trained_at_stage_0(engine)
    for parameter, master in zip(_trained_at_stage_0(engine), masters, strict=True):
        if not parameter.requires_grad:
            continue
        name = names[id(parameter)]
        master.data.copy_(states.master(name))
        parameter.data.copy_(master)
        for key, value in of_optimizer(name).items():
            base.state[master][key] = value.clone() if _is_row(value) else _number(base, value)


def _put_into_whole_rows(engine, states, of_optimizer):
    names, optimizer = _names(engine), engine.optimizer
    for parameters, row in zip(optimizer.fp16_groups, optimizer.fp32_groups_flat, strict=True):
        start = 0
        for parameter in parameters:
            name, end = names[id(parameter)], start + parameter.numel()
            master = states.master(name)
            parameter.data.copy_(master)
            row.data[start:end].copy_(master.flatten())
            for key, value in of_optimizer(name).items():
                state = _row_of_states(engine, row, key, value)
                if state is not None:
                    state[start:end].copy_(value.flatten())
            start = end


def _put_into_row(engine, states, of_optimizer):
    names, optimizer = _names(engine), engine.optimizer
    for parameters, row in zip(optimizer.bit16_groups, optimizer.single_partition_of_fp32_groups, strict=True):
        for parameter in parameters:
            place = parameter._hp_mapping
            if place is None:
                continue  # another rank's
            name, of, to = names[id(parameter)], place.lp_fragment_address, place.hp_fragment_address
            row.data[to.start : to.start + to.numel].copy_(
                states.master(name).flatten()[of.start : of.start + of.numel]
            )
            for key, value in of_optimizer(name).items():
                state = _row_of_states(engine, row, key, value)
                if state is not None:
                    own = value.flatten()[of.start : of.start + of.numel]
                    state[to.start : to.start + to.numel].copy_(own)
    optimizer.update_lp_params()


def _put_into_parts(engine, states, of_optimizer):
    names, optimizer, rank = _names(engine), engine.optimizer, torch.distributed.get_rank()
    optimizer._partition_all_parameters()
    for group, parameters in enumerate(optimizer.fp16_groups):
        row, start = optimizer.fp32_partitioned_groups_flat[group], 0
        for parameter in parameters:
            name, count = names[id(parameter)], parameter.partition_numel()
            _copy_part(row.data[start : start + count], states.master(name), rank)
            for key, value in of_optimizer(name).items():
                state = _row_of_states(engine, row, key, value)
                if state is not None:
                    _copy_part(state[start : start + count], value, rank)
            start += count
        optimizer._reassign_or_swap_out_partitioned_parameters(group)
    optimizer._post_step(set())


def _row_of_states(engine, row, key, value):
    """The row of the optimizer's states `key` beside a row of masters; None for a number, which is set here."""
    base = _base_optimizer(engine)
    states = base.state[row]
    if not _is_row(value):
        states[key] = _number(base, value)
        return None
    if key not in states:
        states[key] = new_row(engine.optimizer, row, key)
    return states[key]


def _copy_part(part, whole, rank):
    """Copy a rank's part of a whole tensor; the last rank's may be shorter than its place."""
    own = whole.flatten()[rank * part.numel() : (rank + 1) * part.numel()]
    part[: own.numel()].copy_(own)


def _put_frozen(module, states):
    """Put frozen parameters and buffers into the module, also where stage 3 has partitioned them."""
    import deepspeed

    places = dict(module.named_buffers()) | {n: p for n, p in module.named_parameters() if not p.requires_grad}
    for name, place in places.items():
        # At stage 0 an optimizer may have got frozen ones too.
        tensor = states.master(name) if name in states.trained else states.others.get(name)
        if tensor is None:
            continue
        with deepspeed.zero.GatheredParameters([place], modifier_rank=0):
            if place.shape == tensor.shape:
                place.data.copy_(tensor)


def _base_optimizer(engine):
    return getattr(engine.optimizer, "optimizer", engine.optimizer)


def _names(engine):
    return {id(parameter): name for name, parameter in engine.module.named_parameters()}


def _trained_at_stage_0(engine):
    return _flat(_groups_at_stage_0(engine))


def _groups_at_stage_0(engine):
    optimizer = engine.optimizer
    return getattr(optimizer, "fp16_groups", None) or [group["params"] for group in optimizer.param_groups]


def _flat(groups):
    return [each for group in groups for each in group]


def _is_row(value):
    return torch.is_tensor(value) and value.dim() > 0


def _number(base, value):
    """The step as this optimizer counts it: torch's own with a tensor, DeepSpeed's with a number."""
    return torch.tensor(float(value)) if type(base).__module__.startswith("torch.") else int(value)
