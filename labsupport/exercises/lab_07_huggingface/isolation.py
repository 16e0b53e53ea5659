"""What Hugging Face keeps for a whole process, forgotten after a check."""

import contextlib
import os
import tempfile
from unittest import mock


@contextlib.contextmanager
def forgetting():
    """A folder to write to, in a process where transformers and accelerate know of no config, before and after."""
    from accelerate.state import AcceleratorState
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ):
        try:
            unset_hf_deepspeed_config()
            AcceleratorState._reset_state()
            yield folder
        finally:
            unset_hf_deepspeed_config()
            AcceleratorState._reset_state()
