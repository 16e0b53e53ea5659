"""The shape of a language model: how many layers of which tensors. No torch."""

import math
from typing import NamedTuple

from labsupport.shapes.families import FAMILIES


class Tensor(NamedTuple):
    """A parameter tensor: its name within its layer or the model, and its shape."""

    name: str
    shape: tuple

    @property
    def elements(self):
        """How many numbers it has."""
        return math.prod(self.shape)


class Shape(NamedTuple):
    """A causal language model, as transformers builds it; longest_sequence is in tokens, the sizes in elements."""

    architecture: str  # the model_type of its config.json, one of families.FAMILIES
    layers: int
    hidden_size: int
    attention_heads: int
    longest_sequence: int
    mlp_size: int  # of a dense layer, or of one expert where there are experts
    vocabulary: int
    key_value_heads: int | None = None  # None: as many as attention heads
    head_size: int | None = None  # None: hidden_size / attention_heads
    tied: bool | None = None  # the output layer is the embedding; None: as the family has it
    attention_bias: bool = False  # on query, key, value and output, beyond what the family always has
    experts: int = 0
    experts_per_token: int = 0
    shared_expert_size: int = 0  # the MLP that every token goes through beside its experts

    @property
    def family(self):
        """What its architecture is made of, a families.Family."""
        return FAMILIES[self.architecture]

    @property
    def query_size(self):
        """The width of all query heads together."""
        return self.attention_heads * (self.head_size or self.hidden_size // self.attention_heads)

    @property
    def key_value_size(self):
        """The width of all key heads together, which is that of the value heads."""
        return self.query_size * (self.key_value_heads or self.attention_heads) // self.attention_heads

    @property
    def is_tied(self):
        """Whether the output layer is the embedding, one tensor that stands once."""
        return self.family.tied if self.tied is None else self.tied

    @property
    def layer_tensors(self):
        """The Tensors of one layer, in the order of model.parameters()."""
        return [Tensor(name, shape) for name, shape in self.family.layer(self)]

    @property
    def outer_tensors(self):
        """The Tensors before and after the layers: two lists."""
        h, embedding = self.hidden_size, Tensor("embed_tokens.weight", (self.vocabulary, self.hidden_size))
        before, after = [embedding], [Tensor("norm.weight", (h,))] if self.family.norms else []
        if self.family.learned_positions:
            before.append(Tensor("positions.weight", (self.longest_sequence, h)))
        if self.family.norm_bias:
            after.append(Tensor("norm.bias", (h,)))
        if not self.is_tied:
            after.append(Tensor("lm_head.weight", (self.vocabulary, h)))
        return before, after

    @property
    def tensor_sizes(self):
        """The elements of every parameter tensor, in the order of model.parameters(); tied ones stand once."""
        before, after = ([tensor.elements for tensor in each] for each in self.outer_tensors)
        return [*before, *[tensor.elements for tensor in self.layer_tensors] * self.layers, *after]

    @property
    def layer_parameters(self):
        """How many parameters one layer has."""
        return sum(tensor.elements for tensor in self.layer_tensors)

    @property
    def parameters(self):
        """How many parameters the model has."""
        before, after = self.outer_tensors
        return sum(tensor.elements for tensor in (*before, *after)) + self.layers * self.layer_parameters

    @property
    def active_parameters(self):
        """How many of them a token goes through: all, without experts."""
        if not self.experts:
            return self.parameters
        of_experts = sum(tensor.elements for tensor in self.layer_tensors if ".experts." in tensor.name)
        return self.parameters - self.layers * of_experts * (self.experts - self.experts_per_token) // self.experts
