"""Fit the model's constants to a few published rows; labsupport.step_time.machines declares what comes out. No torch.

    python -m labsupport.step_time.fit          # the constants, as fitted now

Fitted are the rows that published.py marks, by least squares of the logarithm of expected over published seconds. Two
constants are fitted on H100 and taken for every card: hidden_bytes and exposed_share. The shares of the peak are fitted
for each card, H200's and B200's on one row a constant.
"""

import numpy

from labsupport.models import shape_named
from labsupport.step_time import published
from labsupport.step_time.machines import LINK_SHARE, cluster

_TO_FIT = {
    "h100": ("matrix_share", "attention_share", "hidden_bytes", "exposed_share"),
    "a100-40gb": ("matrix_share", "attention_share"),
    "h200": ("attention_share",),  # its matrix share is H100's: the same chip
    "b200": ("matrix_share", "attention_share"),
}
_DOWN_AND_UP_BYTES = 6  # of a parameter at stage 2, once a step: its gradient in fp32, and itself in 16 bits


def fitted_constants():
    """Return {table: {constant: value}}, fitted anew; hidden_bytes and exposed_share of "h100" go into the others."""
    found, shared = {}, {}
    for name, constants in _TO_FIT.items():
        cited = published.table(name)
        rows = [cited.rows[position] for position in sorted(cited.fitted)]
        found[name] = _least_squares(rows, cited.cluster._replace(**shared), constants)
        shared = {name: found["h100"][name] for name in ("hidden_bytes", "exposed_share")}
    return found


def fitted_host_adam():
    """Return the parameters a second of Adam on one rank's cores, from a published step on the host and one without."""
    cited, machine = published.CITED["core_binding"], cluster("A100-40GB", "HDR")
    part = shape_named(cited["model"]).parameters / 2
    moved = part * _DOWN_AND_UP_BYTES / (machine.host_bytes_per_second * LINK_SHARE)
    return part / ((cited["on_host_ms"] - cited["on_gpu_ms"]) / 1000 - moved)


def _least_squares(rows, machine, constants, rounds=40):
    """Gauss-Newton on the logarithms of the constants; the exposed share cannot pass 1."""
    logs = numpy.log([getattr(machine, name) for name in constants])

    def residuals(logs):
        tried = machine._replace(**dict(zip(constants, numpy.exp(logs).tolist(), strict=True)))
        return numpy.array([numpy.log(row.modelled(tried).expected_seconds / row.step_seconds) for row in rows])

    for _ in range(rounds):
        now, step = residuals(logs), 1e-6
        slopes = numpy.array([(residuals(logs + step * one) - now) / step for one in numpy.eye(len(logs))]).T
        move = numpy.linalg.lstsq(slopes, -now, rcond=None)[0]
        logs = logs + numpy.clip(move, -0.3, 0.3)
    return dict(zip(constants, numpy.exp(logs).tolist(), strict=True))


def main():
    """Print the constants, one a line."""
    for name, constants in fitted_constants().items():
        for constant, value in constants.items():
            print(f"{name}: {constant} {value:.4g}")
    print(f"host_adam_parameters_per_second {fitted_host_adam():.3g}")


if __name__ == "__main__":
    main()
