"""How many floating-point operations a training step needs, and how many a device does in a second: the utilisation.

    python -m labsupport.step_time.flops --model 1.3b --sequence 2048

The count is the one that published utilisations use, so that numbers can be set side by side: 6 for each parameter and
token, and 12 x layers x hidden size x sequence for attention (PaLM, appendix B, arXiv 2204.02311; llm-foundry's
benchmark table counts alike). Causal attention is counted whole, and what checkpointing recomputes is counted only
where that is asked for.
"""

import sys
import time

from labsupport.command_line import OneSentenceParser, exit_status
from labsupport.models import shape_named

MATRIX_SIZE = 8192  # rows and columns: large enough that a GPU's rate no longer grows
H100_BF16_FLOPS = 989e12  # dense, NVIDIA's data sheet of the H100 and H200 SXM


def flops_per_token(model, sequence_length, recompute=False):
    """Return the floating-point operations of one token: a forward pass, and twice that for the backward pass.

    model: the name of a preset or of a well-known model, or anything with `parameters`, `layers` and `hidden_size`; of
    experts those count that a token goes through. sequence_length: tokens of one
    sequence. recompute: count the forward pass that checkpointing repeats, as a modelled time must. A forward pass
    takes 2 P for the weights (Kaplan et al. 2020) and 4 s h for the attention of each layer, so that a step takes 6 P
    or 8 P a token and the attention (Narayanan et al. 2021, equation 3, without the logits). Raises ConfigError for an
    unknown name.
    """
    shape = shape_named(model) if isinstance(model, str) else model
    forward = (
        2 * getattr(shape, "active_parameters", shape.parameters)
        + 4 * sequence_length * shape.hidden_size * shape.layers
    )
    return forward * (4 if recompute else 3)


def utilisation(preset, sequence_length, tokens_per_second, device_flops):
    """Return the model FLOPs utilisation, 0 to 1, of ranks that together train this fast.

    tokens_per_second: over all ranks. device_flops: operations a second of all their devices together.
    """
    return flops_per_token(preset, sequence_length) * tokens_per_second / device_flops


def measured_matmul_flops(dtype, device="cuda", size=MATRIX_SIZE, seconds=2.0):
    """Return the operations a second at which `device` multiplies square matrices of a torch dtype: the best of many.

    size: rows and columns. seconds: how long to measure, after as long a warm-up.
    """
    import torch

    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else (lambda: None)
    best = float("inf")
    for counted in (False, True):
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            wait()
            start = time.perf_counter()
            torch.matmul(a, b)
            wait()
            if counted:
                best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def main(arguments=None):
    """Print the count of a model; return the exit status: 0, or 2 for a mistake told in one sentence."""
    return exit_status(run, arguments)


def run(arguments=None):
    """Print the count of the model that the command line names and return 0."""
    parser = OneSentenceParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="1.3b", help="a preset")
    parser.add_argument("--sequence", type=int, default=2048, help="tokens of one sequence")
    options = parser.parse_args(arguments)
    count = flops_per_token(options.model, options.sequence)
    at_half = 0.5 * H100_BF16_FLOPS / count
    print(f"{options.model} at {options.sequence} tokens: {count / 1e9:.2f} GFLOP a token, forward and backward.")
    print(f"50 % of {H100_BF16_FLOPS / 1e12:.0f} TFLOP/s would be {at_half:,.0f} tokens a second (computed).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
