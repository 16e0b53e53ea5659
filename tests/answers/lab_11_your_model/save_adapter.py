"""Exercise 11-save-adapter: answers that are known to be wrong, by their mistake, and right ones."""


def _save(gathered, saved, inside=True, also="True"):
    """Return the source of an answer that gathers and saves these; `named` is all, `trained` what is trained."""
    depth = "    " if inside else ""
    return f"""
def save_adapter(engine, path):
    import deepspeed
    named = dict(engine.module.named_parameters())
    trained = {{name: p for name, p in named.items() if p.requires_grad}}
    with deepspeed.zero.GatheredParameters(list({gathered})):
        pass
    {depth}if {also} and torch.distributed.get_rank() == 0:
    {depth}    torch.save({{name: {saved}}}, path)""".replace("        pass\n", "" if inside else "        pass\n")


WHOLE = "p.detach().clone() for name, p in trained.items()"

WRONG = {
    "empty": (
        """
def save_adapter(engine, path):
    trained = {name: p.detach() for name, p in engine.module.named_parameters() if p.requires_grad}
    if torch.distributed.get_rank() == 0:
        torch.save(trained, path)""",
        _save("trained.values()", WHOLE, inside=False),
    ),
    "a share": (
        """
def save_adapter(engine, path):
    trained = {name: p.ds_tensor.clone() for name, p in engine.module.named_parameters() if p.requires_grad}
    if torch.distributed.get_rank() == 0:
        torch.save(trained, path)""",
    ),
    "the base too": (_save("named.values()", "p.detach().clone() for name, p in named.items()"),),
    "gathers the base": (_save("engine.module.parameters()", WHOLE),),
    "missing": (_save("trained.values()", WHOLE + " if 'lora_A' in name"),),
    "other names": (_save("trained.values()", WHOLE).replace("{name: p.detach", "{name.replace('.', '/'): p.detach"),),
    "other values": (_save("trained.values()", WHOLE.replace("clone()", "clone() / 2")),),
    "no file": (_save("trained.values()", WHOLE, also="engine.global_steps == 0"),),
    "left whole": (
        """
def save_adapter(engine, path):
    trained = {name: p for name, p in engine.module.named_parameters() if p.requires_grad}
    for p in trained.values():
        p.all_gather()
    if torch.distributed.get_rank() == 0:
        torch.save({name: p.detach().clone() for name, p in trained.items()}, path)""",
    ),
    "hangs": (
        """
def save_adapter(engine, path):
    import deepspeed
    if torch.distributed.get_rank() == 0:
        trained = {name: p for name, p in engine.module.named_parameters() if p.requires_grad}
        with deepspeed.zero.GatheredParameters(list(trained.values())):
            torch.save({name: p.detach().clone() for name, p in trained.items()}, path)""",
    ),
}

RIGHT = (
    """
def save_adapter(engine, path):
    from deepspeed import zero
    adapter = {}
    for name, p in engine.module.named_parameters():
        if p.requires_grad:
            with zero.GatheredParameters([p]):
                adapter[name] = p.detach().cpu().clone()
    if engine.global_rank == 0:
        torch.save(adapter, path)""",
    """
def save_adapter(engine, path):
    import deepspeed
    own = [(name, p) for name, p in engine.module.named_parameters() if "lora_" in name]
    with deepspeed.zero.GatheredParameters([p for _, p in own], modifier_rank=0):
        if torch.distributed.get_rank() == 0:
            torch.save({name: p.data for name, p in own}, path)""",
    """
def save_adapter(engine, path):
    from deepspeed.utils import safe_get_full_fp32_param
    found = {}
    for name, p in engine.module.named_parameters():
        if p.requires_grad:
            found[name] = safe_get_full_fp32_param(p)
    if torch.distributed.get_rank() == 1:
        torch.save(found, path)
    torch.distributed.barrier()""",
)
