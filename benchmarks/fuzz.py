"""Make configs at random, and record where the doctor and DeepSpeed's parser part: `make fuzz`.

    python benchmarks/fuzz.py                  # 10,000 configs
    python benchmarks/fuzz.py --configs 500

Writes labsupport/recorded/fuzz.json. tests/doctor runs a few hundred of the same.
"""

import argparse
import logging
import os
import sys
import time
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "doctor"))
os.environ |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}

from generated import configs, difference  # noqa: E402 - beside the tests

from labsupport.doctor.diagnosis import diagnose  # noqa: E402
from labsupport.doctor.findings import ERROR, PARSE, RULES  # noqa: E402
from labsupport.machine.hardware import describe_machine  # noqa: E402
from labsupport.records import record  # noqa: E402

CONFIGS, SEED, RANKS = 10_000, 16, (1, 2, 3, 4, 8, 16)


def main():
    """Compare, then record; returns 1 where the two part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", type=int, default=CONFIGS, help=f"how many (default {CONFIGS})")
    options = parser.parse_args()
    from deepspeed.utils import logger

    logger.setLevel(logging.CRITICAL)
    measured, seconds = {"configs": 0, "refused": 0, "accepted": 0, "differences": []}, time.monotonic()
    found = set()

    @seed(SEED)
    @settings(max_examples=options.configs, deadline=None, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(configs(), st.sampled_from(RANKS))
    def compare(config, ranks):
        findings = diagnose(config, ranks, "cpu")
        refused = any(finding.severity == ERROR and finding.when == PARSE for finding in findings)
        found.update(finding.code for finding in findings)
        measured["configs"] += 1
        measured["refused" if refused else "accepted"] += 1
        if what := difference(config, ranks):
            measured["differences"].append({"config": repr(config), "ranks": ranks, "what": what})

    compare()
    measured |= {"rules": len(RULES), "rules_that_found": len(found), "seconds": round(time.monotonic() - seconds, 1)}
    path = record(
        "fuzz",
        command=f"python benchmarks/fuzz.py --configs {options.configs}",
        config={"configs": options.configs, "ranks": list(RANKS)},
        hardware=str(describe_machine()),
        seed=SEED,
        warm_up=0,
        counted=measured["configs"],
        measured=measured,
    )
    print(f"{measured['configs']} configs, {len(measured['differences'])} differences: {path}")
    return int(bool(measured["differences"]))


if __name__ == "__main__":
    sys.exit(main())
