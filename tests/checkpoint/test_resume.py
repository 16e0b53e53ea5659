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
    {"stage": 3, "offload": "nvme", "pipelined": True},
    {"stage": 3, "offload": "nvme", "precision": "bf16", "accumulation": 2},
    *({"stage": stage, "precision": "bf16"} for stage in (0, 2, 3)),
    *({"stage": stage, "precision": "fp16"} for stage in (0, 2, 3)),
    *({"stage": stage, "optimizer": "groups"} for stage in (0, 2, 3)),
    *({"stage": stage, "optimizer": "fused", "precision": "bf16"} for stage in (0, 2)),
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


@pytest.mark.parametrize(("saved", "here"), [(0, 2), (2, 3), (3, 0)])
@pytest.mark.parametrize("order", ["groups in another order", "groups with the frozen"])
def test_parameter_groups_go_on_at_another_stage_and_in_another_order(two_ranks, tmp_path, saved, here, order):
    """The decay of one group alone is large, so that a parameter in the wrong one would be seen."""
    losses = two_ranks.run(checkpoint_work.save_and_go_on, str(tmp_path), saved, optimizer=order)[0]
    for stage in (saved, here):
        for again, _ in two_ranks.run(checkpoint_work.resume, str(tmp_path), stage, optimizer="groups"):
            assert again == pytest.approx(losses, abs=2e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_fused_optimizer_goes_on_from_stage_0_and_to_it(two_ranks, tmp_path, precision):
    """FusedAdam counts its steps in one state alone, and in 16 bit stage 0 keeps all parameters in one row."""
    options = {"optimizer": "fused", "precision": precision}
    for saved, here in ((0, 2), (2, 0)):
        folder = str(tmp_path / str(saved))
        losses = two_ranks.run(checkpoint_work.save_and_go_on, folder, saved, **options)[0]
        for again, _ in two_ranks.run(checkpoint_work.resume, folder, here, **options):
            assert again == pytest.approx(losses, abs=1e-4)


@pytest.mark.parametrize(("saved", "here"), [(2, 2), (2, 3), (3, 1)])
def test_the_loss_scaler_goes_on_with_its_window_and_its_hysteresis(two_ranks, tmp_path, saved, here):
    went_on = two_ranks.run(checkpoint_work.loss_scaler, str(tmp_path), saved, resumed=False)
    assert went_on[0][0]["cur_scale"] < 2**20 and went_on[0][0]["cur_hysteresis"] == 1, "it has met an overflow"
    assert two_ranks.run(checkpoint_work.loss_scaler, str(tmp_path), here, resumed=True) == went_on


def test_a_save_before_the_first_step_loads_at_every_stage(two_ranks, tmp_path):
    for saved, here in ((2, 0), (3, 1)):
        folder = str(tmp_path / str(saved))
        losses = two_ranks.run(checkpoint_work.save_at_once, folder, saved)[0]
        for again in two_ranks.run(checkpoint_work.save_at_once, folder, here, resumed=True):
            assert again == pytest.approx(losses, abs=2e-5)


@pytest.mark.parametrize(("saved", "here", "words"), [
    ("one group", "groups", "has 1 parameter groups of the optimizer and this run has 2"),
    ("groups", "groups exchanged", "is in another parameter group"),
    ("groups", "more frozen", "The parameter transformer.h.1.mlp.c_fc.weight was trained in"),
    ("more frozen", "groups", "The parameter transformer.h.1.mlp.c_fc.weight was frozen in"),
])  # fmt: skip
def test_other_parameter_groups_are_refused(two_ranks, tmp_path, saved, here, words):
    two_ranks.run(checkpoint_work.save_and_go_on, str(tmp_path), 2, optimizer=saved)
    for stage in (2, 3):
        told = two_ranks.run(checkpoint_work.refusal, str(tmp_path), stage, optimizer=here)
        assert told[0] == told[1] and words in told[0] and "load_weights" in told[0], told
