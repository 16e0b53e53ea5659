"""LoRA as peft adds it: two small matrices beside each weight that is named, and all else frozen. No torch.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685; peft's LoraConfig, without dropout.
"""

from typing import NamedTuple

from labsupport.arguments import require_positive_integer
from labsupport.errors import ConfigError

ALL_LINEAR = "all-linear"


class Adapter(NamedTuple):
    """A LoRA: the rank of its matrices and the modules beside which they stand, by the last part of their names."""

    rank: int
    targets: tuple  # ("q_proj", "v_proj"), or ("all-linear",) for every weight of a layer that is a linear map

    def added_to(self, layer, transposed=False):
        """Return a layer's tensors with this adapter's, in the order of peft's model.parameters().

        layer: tensors with a name and a shape (out, in), or (in, out) where `transposed`, as GPT-2 has them. Raises
        ConfigError for a rank that is no positive integer, and for a target that the layer has not.
        """
        require_positive_integer("rank of the adapter", self.rank)
        weights = {tensor.name.removesuffix(".weight"): tensor for tensor in layer if _is_linear(tensor)}
        known = list(dict.fromkeys(module.rpartition(".")[2] for module in weights))
        for target in self.targets or ("",):
            if target not in (*known, ALL_LINEAR):
                raise ConfigError(
                    f"The adapter stands beside {target!r}, and a layer has no such linear module: it has "
                    f"{', '.join(known)}; {ALL_LINEAR!r} takes them all."
                )
        found = []
        for i, tensor in enumerate(layer):
            found.append(tensor)
            module = tensor.name.rpartition(".")[0]
            last_of_module = i + 1 == len(layer) or layer[i + 1].name.rpartition(".")[0] != module
            if module in weights and last_of_module and self.stands_beside(module):
                rows, columns = weights[module].shape[:: -1 if transposed else 1]
                matrices = {"lora_A": (self.rank, columns), "lora_B": (rows, self.rank)}
                found += [type(tensor)(f"{module}.{name}.weight", shape) for name, shape in matrices.items()]
        return found

    def stands_beside(self, module):
        """Whether this adapter has matrices beside a module of a layer, by the module's name."""
        return ALL_LINEAR in self.targets or module.rpartition(".")[2] in self.targets

    @staticmethod
    def owns(name):
        """Whether a tensor of that name is an adapter's."""
        return ".lora_" in name


def _is_linear(tensor):
    router = "mlp.gate.weight"  # in transformers 5 a parameter of a module of its own, which peft passes by
    return tensor.name.endswith(".weight") and len(tensor.shape) == 2 and tensor.name != router
