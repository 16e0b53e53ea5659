"""MODELLED: how long a step takes on GPUs and networks that are not here, and how far it scales."""
