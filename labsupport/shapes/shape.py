"""The shape of a language model: how many layers of which tensors. No torch."""

import math
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import NamedTuple

from labsupport.errors import ConfigError
from labsupport.shapes.adapter import Adapter
from labsupport.shapes.families import FAMILIES


class Tensor(NamedTuple):
    """A parameter tensor: its name within its layer or the model, its shape, and whether it is trained."""

    name: str
    shape: tuple
    trained: bool = True

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
    frozen: tuple = ()  # patterns, as in a shell, of the names of tensors that are not trained: "layers.0.*"
    adapter: Adapter | None = None  # LoRA: its matrices alone are trained

    def as_dict(self):
        """Return the shape as the JSON of a record has it: what is frozen or added only where there is some."""
        entry = self._asdict()
        frozen, adapter = entry.pop("frozen"), entry.pop("adapter")
        return (
            entry | ({"frozen": list(frozen)} if frozen else {}) | ({"adapter": adapter._asdict()} if adapter else {})
        )

    @classmethod
    def from_dict(cls, entry):
        """Return the Shape that `as_dict` wrote."""
        adapter = entry.get("adapter")
        adapter = adapter and Adapter(adapter["rank"], tuple(adapter["targets"]))
        return cls(**entry | {"frozen": tuple(entry.get("frozen", ())), "adapter": adapter})

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
        """The Tensors of one layer with its adapter's, in the order of model.parameters(), before any is frozen."""
        tensors = [Tensor(name, shape) for name, shape in self.family.layer(self)]
        if self.adapter is None:
            return tensors
        return [
            tensor._replace(trained=self.adapter.owns(tensor.name))
            for tensor in self.adapter.added_to(tensors, transposed=self.architecture == "gpt2")
        ]

    @property
    def outer_tensors(self):
        """The Tensors before and after the layers: two lists."""
        h, trained = self.hidden_size, self.adapter is None
        before = [Tensor("embed_tokens.weight", (self.vocabulary, h), trained)]
        after = [Tensor("norm.weight", (h,), trained)] if self.family.norms else []
        if self.family.learned_positions:
            before.append(Tensor("positions.weight", (self.longest_sequence, h), trained))
        if self.family.norm_bias:
            after.append(Tensor("norm.bias", (h,), trained))
        if not self.is_tied:
            after.append(Tensor("lm_head.weight", (self.vocabulary, h), trained))
        return before, after

    @property
    def tensors(self):
        """Every parameter Tensor by its whole name, in the order of model.parameters(); tied ones stand once.

        Raises ConfigError for a frozen pattern or an adapter's target that nothing matches, and where all is frozen.
        """
        return _tensors(self)

    @property
    def tensor_sizes(self):
        """The elements of every parameter tensor, in the order of model.parameters()."""
        return self._of_tensors("elements")

    @property
    def trained(self):
        """Whether each tensor is trained, in the same order."""
        return [tensor.trained for tensor in self.tensors] if self.frozen else self._of_tensors("trained")

    def _of_tensors(self, name):
        (before, after), layer = self.outer_tensors, self.layer_tensors
        before, layer, after = ([getattr(tensor, name) for tensor in each] for each in (before, layer, after))
        return [*before, *layer * self.layers, *after]

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
    def trained_parameters(self):
        """How many of them are trained."""
        if self.adapter is None and not self.frozen:
            return self.parameters
        return sum(size for size, trained in zip(self.tensor_sizes, self.trained, strict=True) if trained)

    @property
    def trained_in_layers(self):
        """For each layer, the names within it of the tensors that are trained."""
        if not self.frozen:
            return [frozenset(tensor.name for tensor in self.layer_tensors if tensor.trained)] * self.layers
        found = [set() for _ in range(self.layers)]
        for tensor in self.tensors:
            if tensor.trained and tensor.name.startswith("layers."):
                _, number, name = tensor.name.split(".", 2)
                found[int(number)].add(name)
        return [frozenset(names) for names in found]

    @property
    def trained_outside(self):
        """The names of the tensors before and after the layers that are trained."""
        tensors = self.tensors if self.frozen else [*self.outer_tensors[0], *self.outer_tensors[1]]
        return {tensor.name for tensor in tensors if tensor.trained and not tensor.name.startswith("layers.")}

    @property
    def active_parameters(self):
        """How many of them a token goes through: all, without experts."""
        if not self.experts:
            return self.parameters
        of_experts = sum(tensor.elements for tensor in self.layer_tensors if ".experts." in tensor.name)
        return self.parameters - self.layers * of_experts * (self.experts - self.experts_per_token) // self.experts


@lru_cache(maxsize=64)
def _tensors(shape):
    (before, after), layer = shape.outer_tensors, shape.layer_tensors
    found = [
        *before,
        *(tensor._replace(name=f"layers.{i}.{tensor.name}") for i in range(shape.layers) for tensor in layer),
        *after,
    ]
    for pattern in shape.frozen:
        matched = [fnmatchcase(tensor.name, pattern) for tensor in found]
        if not any(matched):
            raise ConfigError(
                f"No parameter is called {pattern!r}: the names are like {found[0].name} and {found[len(before)].name}."
            )
        found = [
            tensor._replace(trained=False) if frozen else tensor for tensor, frozen in zip(found, matched, strict=True)
        ]
    if not any(tensor.trained for tensor in found):
        raise ConfigError("All parameters are frozen: leave at least one to train.")
    return tuple(found)
