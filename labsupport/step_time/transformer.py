"""The transformers that are modelled: as much of a model as the time of a step depends on. No torch.

python -c "from labsupport.step_time.transformer import GPT; print(GPT['7.5B'])"
"""

from typing import NamedTuple


class Transformer(NamedTuple):
    """What the time of a step depends on; a labsupport.shapes.Shape has it too."""

    parameters: int
    layers: int
    hidden_size: int
    vocabulary: int = 51_200


def gpt(layers, hidden_size, vocabulary=51_200, positions=2048):
    """Return the Transformer of a GPT of this shape (Narayanan et al. 2021, arXiv 2104.04473, equation 2)."""
    block = 12 * hidden_size**2 + 13 * hidden_size
    return Transformer(layers * block + (vocabulary + positions) * hidden_size, layers, hidden_size, vocabulary)


# Narayanan et al. 2021, table 1: layers and hidden size; 174.6B is GPT-3, from their table 2.
_SHAPES = {
    "1.7B": (24, 2304), "3.6B": (30, 3072), "7.5B": (36, 4096), "18.4B": (40, 6144), "39.1B": (48, 8192),
    "76.1B": (60, 10240), "145.6B": (80, 12288), "174.6B": (96, 12288), "310.1B": (96, 16384),
    "529.6B": (105, 20480), "1008B": (128, 25600),
}  # fmt: skip
GPT = {name: gpt(*shape) for name, shape in _SHAPES.items()}
