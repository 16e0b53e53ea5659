"""Exercise 11-merge: answers that are known to be wrong, by their mistake, and right ones."""


def _each(needed, *statements, rank="0"):
    """Return the source of an answer that does this in each layer, with these gathered."""
    body = "\n            ".join(statements)
    return f"""
def merge(engine):
    import deepspeed
    for layer in engine.module:
        with deepspeed.zero.GatheredParameters([{needed}], modifier_rank={rank}), torch.no_grad():
            {body}"""


ALL = "layer.base.weight, layer.lora_A, layer.lora_B"
ADD = "layer.base.weight += layer.scale * layer.lora_B @ layer.lora_A"
ZERO = "layer.lora_B.zero_()"

WRONG = {
    "not gathered": (_each("layer.lora_A, layer.lora_B", ADD, ZERO),),
    "lost": (
        """
def merge(engine):
    with torch.no_grad():
        for layer in engine.module:
            layer.base.weight += layer.scale * layer.lora_B @ layer.lora_A
            layer.lora_B.zero_()""",
        _each(ALL, ADD, ZERO, rank="None"),
        _each(ALL, "merged = layer.base.weight + layer.scale * layer.lora_B @ layer.lora_A", "merged.clone()"),
    ),
    "thrown away": (_each(ALL, "merged = layer.base.weight + layer.scale * layer.lora_B @ layer.lora_A", ZERO),),
    "no scale": (_each(ALL, "layer.base.weight += layer.lora_B @ layer.lora_A", ZERO),),
    "counted twice": (_each(ALL, ADD),),
    "another": (
        _each(ALL, "layer.base.weight += layer.scale * (layer.lora_B @ layer.lora_A).T", ZERO),
        _each(ALL, "layer.base.weight -= layer.scale * layer.lora_B @ layer.lora_A", ZERO),
    ),
    "all at once": (
        """
def merge(engine):
    import deepspeed
    with deepspeed.zero.GatheredParameters(list(engine.module.parameters()), modifier_rank=0), torch.no_grad():
        for layer in engine.module:
            layer.base.weight += layer.scale * layer.lora_B @ layer.lora_A
            layer.lora_B.zero_()""",
    ),
    "hangs": (
        """
def merge(engine):
    import deepspeed
    if torch.distributed.get_rank() == 0:
        for layer in engine.module:
            needed = [layer.base.weight, layer.lora_A, layer.lora_B]
            with deepspeed.zero.GatheredParameters(needed, modifier_rank=0), torch.no_grad():
                layer.base.weight += layer.scale * layer.lora_B @ layer.lora_A
                layer.lora_B.zero_()""",
    ),
}

RIGHT = (
    """
import deepspeed

def merge(engine):
    for layer in engine.module.modules():
        if hasattr(layer, "lora_B"):
            with deepspeed.zero.GatheredParameters(list(layer.parameters()), modifier_rank=0):
                if torch.distributed.get_rank() == 0:
                    layer.base.weight.data.add_(layer.lora_B.data @ layer.lora_A.data, alpha=layer.scale)
                    layer.lora_B.data.zero_()""",
    """
def merge(engine):
    import deepspeed
    for layer in engine.module:
        with deepspeed.zero.GatheredParameters([layer.lora_A, layer.lora_B]):
            added = layer.scale * layer.lora_B.detach() @ layer.lora_A.detach()
        with deepspeed.zero.GatheredParameters([layer.base.weight], modifier_rank=1):
            layer.base.weight.data += added
        with deepspeed.zero.GatheredParameters([layer.lora_B], modifier_rank=1):
            layer.lora_B.data.zero_()""",
    _each(ALL, ADD, "layer.lora_B.mul_(0)", rank="1"),
)
