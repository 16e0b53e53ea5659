"""What a model is made of, from its config.json or its name: tensors, in order. No torch."""

from labsupport.shapes.adapter import Adapter
from labsupport.shapes.hugging_face import config_of, known_models, shape_of, shape_of_config, shape_of_file
from labsupport.shapes.shape import Shape, Tensor

__all__ = ["Adapter", "Shape", "Tensor", "config_of", "known_models", "shape_of", "shape_of_config", "shape_of_file"]
