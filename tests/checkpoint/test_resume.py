"""A resumed run is the uninterrupted one: the same losses, also on other ranks, at another stage, off other places."""

import checkpoint_work
import pytest

from labsupport.machine.probes import nvme_is_available

pytestmark = pytest.mark.slow

SAME = [
    *({"stage": stage} for stage in (0, 1, 2, 3)),
    *({"stage": stage, "accumulation": 2} for stage in (0, 2, 3)),
    *({"stage": stage, "offload": "cpu"} for stage in (1, 2, 3)),
    {"stage": 3, "offload": "nvme"},
    {"stage": 3, "offload": "nvme", "precision": "bf16", "accumulation": 2},
    *({"stage": stage, "precision": "bf16"} for stage in (0, 2, 3)),
]


@pytest.mark.parametrize("case", SAME, ids=lambda case: "-".join(map(str, case.values())))
def test_a_resumed_run_has_the_losses_of_the_uninterrupted_one_to_the_bit(two_ranks, tmp_path, case):
    folder = str(tmp_path / "run")
    if case.get("offload") == "nvme":
        if not nvme_is_available():
            pytest.skip("no NVMe offload here: install the package libaio-dev")
        case = case | {"nvme_path": str(tmp_path / "drive")}
    went_on = two_ranks.run(checkpoint_work.save_and_go_on, folder, **case)
    assert went_on[0] == went_on[1], "the mean over ranks is the same on each"
    for losses, said in two_ranks.run(checkpoint_work.resume, folder, **case):
        assert losses == went_on[0] and said == ""


@pytest.mark.parametrize("saved", (0, 1, 2, 3))
def test_a_run_goes_on_at_every_other_stage(two_ranks, tmp_path, saved):
    losses = two_ranks.run(checkpoint_work.save_and_go_on, str(tmp_path), saved)[0]
    for here in {0, 1, 2, 3} - {saved}:
        for rank, (again, said) in enumerate(two_ranks.run(checkpoint_work.resume, str(tmp_path), here)):
            assert again == pytest.approx(losses, abs=2e-5), f"in fp32, {saved} to {here}: sums in another order"
            assert ("cut anew at stage" in said) == (rank == 0)


def test_a_run_goes_on_where_its_states_are_on_the_host(two_ranks, tmp_path):
    losses = two_ranks.run(checkpoint_work.save_and_go_on, str(tmp_path), 3)[0]
    for again, _ in two_ranks.run(checkpoint_work.resume, str(tmp_path), 3, offload="cpu"):
        assert again == pytest.approx(losses, abs=2e-4), "DeepSpeed's Adam for the processor rounds otherwise"
