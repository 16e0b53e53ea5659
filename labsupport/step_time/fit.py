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
_BY_RULE = ("h100", "a100-40gb")  # every so many rows
_DOWN_AND_UP_BYTES = 6  # of a parameter at stage 2, once a step: its gradient in fp32, and itself in 16 bits


def fitted_constants(every=published.EVERY):
    """Return {table: {constant: value}}, fitted anew; hidden_bytes and exposed_share of "h100" go into the others.

    every: which rows of llm-foundry's tables are fitted, from the first on.
    """
    found, shared = {}, {}
    for name, constants in _TO_FIT.items():
        cited = published.table(name)
        rows = cited.rows[::every] if name in _BY_RULE else [cited.rows[position] for position in sorted(cited.fitted)]
        found[name] = _least_squares(rows, cited.cluster._replace(**shared), constants)
        shared = {name: found["h100"][name] for name in ("hidden_bytes", "exposed_share")}
    return found


def errors_of_other_rules(rules=(2, 3, 5, 7, 10)):
    """Return {every: (constants of H100, errors)} for other choices of rows; errors: of all rows that were not fitted.

    Those are llm-foundry's rows on H100 and both A100s, and nanotron's, as in labsupport.step_time.published.
    """
    found = {}
    for every in rules:
        constants = fitted_constants(every)
        h100 = constants["h100"]
        shared = {name: h100[name] for name in ("hidden_bytes", "exposed_share")}
        a100 = shared | constants["a100-40gb"]
        errors = []
        for name, of_card in {"h100": h100, "ultrascale": h100, "a100-40gb": a100, "a100-80gb": a100}.items():
            cited = published.table(name)
            machine = cited.cluster._replace(**of_card)
            for position, row in enumerate(cited.rows):
                if name not in _BY_RULE or position % every:
                    errors.append(row.modelled(machine).expected_seconds / row.step_seconds - 1)
        found[every] = h100, errors
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
        if numpy.abs(move).max() < 1e-5:
            break
    return dict(zip(constants, numpy.exp(logs).tolist(), strict=True))


def main():
    """Print the constants, one a line."""
    for name, constants in fitted_constants().items():
        for constant, value in constants.items():
            print(f"{name}: {constant} {value:.4g}")
    print(f"host_adam_parameters_per_second {fitted_host_adam():.3g}")


if __name__ == "__main__":
    main()
