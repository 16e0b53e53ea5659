"""Exercise 11-mend: answers that are known to be wrong, by their mistake, and right ones."""

_CALLS_ALL = """
def mend(model):
    def forward(self, rows, chosen):
        result = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            BODY
        return result
    type(model.mixture).forward = forward"""

WRONG = {
    "mixed": (
        "def mend(model):\n    model.train()",
        """
def mend(model):
    from deepspeed.utils import set_z3_leaf_modules
    set_z3_leaf_modules(model, [torch.nn.Linear])""",
        """
def mend(model):
    from deepspeed.utils import set_z3_leaf_modules
    set_z3_leaf_modules(model, [torch.nn.ModuleList])""",
        """
def mend(model):
    from deepspeed.utils import set_z3_leaf_modules, unset_z3_leaf_modules
    set_z3_leaf_modules(model, [type(model.mixture)])
    unset_z3_leaf_modules(model, [type(model.mixture)])""",
        """
def mend(model):
    model.mixture._z3_leaf = True""",
    ),
    "the whole model": (
        """
def mend(model):
    from deepspeed.utils import set_z3_leaf_modules
    set_z3_leaf_modules(model, [type(model)])""",
    ),
    "changed": (
        """
def mend(model):
    for mixture in (model.mixture, model.second_mixture):
        def forward(rows, chosen, mixture=mixture):
            return sum(expert(rows) for expert in mixture.experts) / len(mixture.experts)
        mixture.forward = forward""",
        """
def mend(model):
    for mixture in (model.mixture, model.second_mixture):
        def forward(rows, chosen, mixture=mixture):
            return mixture.experts[0](rows)
        mixture.forward = forward""",
    ),
    "frozen": (
        """
def mend(model):
    for mixture in (model.mixture, model.second_mixture):
        mixture.requires_grad_(False)""",
    ),
    "trains otherwise": (
        """
def mend(model):
    from deepspeed.utils import set_z3_leaf_modules
    set_z3_leaf_modules(model, [type(model.mixture)])
    for p in model.mixture.experts[0].parameters():
        p.register_hook(lambda gradient: gradient * 0)""",
    ),
}

RIGHT = (
    """
def mend(model):
    from deepspeed.utils import set_z3_leaf_modules_by_name
    set_z3_leaf_modules_by_name(model, ["mixture", "second_mixture"])""",
    """
def mend(model):
    from deepspeed.utils import set_z3_leaf_modules
    return set_z3_leaf_modules(model, [type(model.mixture).__name__])""",
    """
import deepspeed

def mend(model):
    for module in model.modules():
        if any(isinstance(child, torch.nn.ModuleList) for child in module.children()):
            deepspeed.utils.set_z3_leaf_module(module, True)""",
)
