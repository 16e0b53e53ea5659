"""Generated and mutated configs: the doctor's answer beside that of the installed DeepSpeed's parser."""

import logging

import pytest
from generated import configs, difference
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st


@pytest.fixture(autouse=True)
def quiet():
    from deepspeed.utils import logger

    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


@settings(max_examples=600, deadline=None, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate],
          suppress_health_check=list(HealthCheck))  # fmt: skip
@given(configs(), st.sampled_from([1, 2, 3, 4, 8, 16]))
@example({"train_batch_size": 8, "fp16": {"strict": True, "enabled": "auto"}}, 2)
@example({"train_batch_size": 8, "zero_optimization": True, "allgather_size": 7}, 2)
@example({"train_batch_size": 8, "sequence_parallel_size": 3}, 4)
@example({"train_batch_size": 8, "timers": "throughput"}, 2)
@example({"train_batch_size": 8, "wall_clock_breakdown": 0, "flops_profiler": {"enabled": 1}}, 2)
def test_accepted_refused_and_read_alike(config, ranks):
    assert difference(config, ranks) is None


def test_a_difference_would_be_seen():
    assert difference({"train_batch_size": 8}, 2) is None
    from labsupport.doctor.findings import RULES

    kept = RULES.pop("no-batch-size")
    try:
        assert "the doctor does not" in difference({}, 2)
    finally:
        RULES["no-batch-size"] = kept
