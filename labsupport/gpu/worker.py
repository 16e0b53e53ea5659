"""What `make gpu` starts for each cell, and a lab on a GPU: measure it, and leave the result as a line of JSON.

    python -m labsupport.gpu.worker cell.json result.jsonl          # also under torchrun, for several ranks

A cell that fails leaves its sentence there.
"""

import json
import os
import re
import sys

from labsupport.engine import end_rank
from labsupport.errors import LabError
from labsupport.gpu.cells import OUT_OF_MEMORY, Cell
from labsupport.gpu.measurements import measure
from labsupport.wording import first_line

# What a full GPU or host says where PyTorch has no class for it: CUDA's own calls, cuBLAS, NCCL, and malloc.
FULL = re.compile("out of memory|CUBLAS_STATUS_ALLOC_FAILED|can't allocate memory", re.IGNORECASE)


def is_out_of_memory(error):
    """Whether a GPU or the host was full: said by the error itself, or by the one that our sentence was made of."""
    return any(isinstance(each, MemoryError) or FULL.search(str(each)) for each in (error, error.__cause__))


def main(cell_file, result_file, nvme_path=None):
    """Measure the cell of a file, write the result, and return the exit status."""
    with open(cell_file) as file:
        cell = Cell.from_dict(json.load(file))
    entry = {"cell": cell.as_dict()}
    try:
        entry["measured"] = measure(cell, nvme_path)
    except Exception as error:  # a cell of DeepSpeed, PyTorch or transformers may fail in any way
        sentence = str(error) if isinstance(error, LabError) else first_line(error)
        entry |= {"error": sentence, OUT_OF_MEMORY: is_out_of_memory(error)}
    if "error" in entry or int(os.environ.get("RANK", "0")) == 0:
        with open(result_file, "a") as file:
            file.write(json.dumps(entry) + "\n")
    if "error" in entry:
        print(f"error: {entry['error']}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    end_rank(main(*sys.argv[1:]))
