"""What the server that ranks are forked from imports, once; no other process imports this.

The fork has it all without waiting: torch and DeepSpeed take a second or two each, the model's code in transformers and
Muon, with which DeepSpeed brings torch's compiler, three more.
"""

import os

os.environ |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}  # DeepSpeed asks for its accelerator once a process

import labsupport.faults.training  # noqa: F401
from labsupport.engine import import_ahead

import_ahead()
