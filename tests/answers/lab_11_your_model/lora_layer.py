"""Exercise 11-lora-layer: answers that are known to be wrong, by their mistake, and right ones."""


def _layer(
    forward="self.base(rows) + self.scale * (rows @ self.A.T) @ self.B.T",
    a="torch.randn(rank, base.in_features)",
    b="torch.zeros(base.out_features, rank)",
    scale="alpha / rank",
    base="base.requires_grad_(False)",
    wrap="torch.nn.Parameter",
):
    return f"""
def lora_linear(base, rank, alpha):
    class LoraLinear(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.base, self.scale = {base}, {scale}
            self.A = {wrap}({a})
            self.B = {wrap}({b})

        def forward(self, rows):
            return {forward}

    return LoraLinear()"""


WRONG = {
    "the base is trained": (_layer(base="base"),),
    "nothing to train": (
        _layer(wrap="torch.Tensor.requires_grad_"),
        _layer(wrap="torch.Tensor.clone"),
    ),
    "other shapes": (
        _layer(
            forward="self.base(rows) + self.scale * rows @ self.A @ self.B",
            a="torch.randn(base.in_features, rank)",
            b="torch.zeros(rank, base.out_features)",
        ),
        _layer(a="torch.randn(1, base.in_features)", b="torch.zeros(base.out_features, 1)"),
    ),
    "both at zero": (_layer(a="torch.zeros(rank, base.in_features)"),),
    "another start": (_layer(b="torch.randn(base.out_features, rank)"),),
    "has no part": (_layer(forward="self.base(rows)"),),
    "no scale": (_layer(scale="1.0"),),
    "alpha alone": (_layer(scale="alpha"),),
    "another": (_layer(scale="rank / alpha"), _layer(scale="alpha / rank**0.5")),
    "the base moves": (
        _layer(forward="self.base(self.moved(rows)) + self.scale * (rows @ self.A.T) @ self.B.T").replace(
            "        def forward",
            """        def moved(self, rows):
            if torch.is_grad_enabled() and torch.distributed.is_initialized() and hasattr(self.A, "_hp_mapping"):
                self.base.weight.data += 0.01
            return rows

        def forward""",
        ),
    ),
    "trains otherwise": (_layer(forward="self.base(rows) + self.scale * (rows @ self.A.detach().T) @ self.B.T"),),
}

RIGHT = (
    _layer(forward="torch.nn.functional.linear(rows, self.base.weight + self.scale * self.B @ self.A, self.base.bias)"),
    _layer(forward="rows @ self.base.weight.T + self.base.bias + self.scale * rows @ self.A.T @ self.B.T"),
    """
def lora_linear(base, rank, alpha):
    class Wrapped(torch.nn.Module):
        def __init__(self, base):
            super().__init__()
            base.weight.requires_grad = False
            if base.bias is not None:
                base.bias.requires_grad = False
            self.base = base
            self.down = torch.nn.Linear(base.in_features, rank, bias=False)
            self.up = torch.nn.Linear(rank, base.out_features, bias=False)
            torch.nn.init.zeros_(self.up.weight)
        def forward(self, x):
            return self.base(x) + self.up(self.down(x)) * (alpha / rank)
    return Wrapped(base)""",
    """
def lora_linear(base, rank, alpha):
    from peft.tuners.lora import LoraConfig, Linear
    base.requires_grad_(False)
    return Linear(base, "default", LoraConfig(r=rank, lora_alpha=alpha), r=rank, lora_alpha=alpha)""",
    """
from torch import nn

def lora_linear(base, rank, alpha):
    class Lora(nn.Module):
        def __init__(self):
            super().__init__()
            self.base = base
            for p in self.base.parameters():
                p.requires_grad_(False)
            self.lora_A = nn.Parameter(torch.zeros(rank, base.in_features))
            self.lora_B = nn.Parameter(torch.randn(base.out_features, rank))
        def forward(self, rows):
            low = nn.functional.linear(rows, self.lora_A)
            return self.base(rows) + nn.functional.linear(low, self.lora_B).mul(alpha).div(rank)
    return Lora()""",
)
