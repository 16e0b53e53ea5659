"""The timeline of a step, of steps whose allocations are known, and of live ranks."""

import pytest
import rank_work
import torch


def engine_of(module):
    """As much of an engine as the ledger looks at."""
    from types import SimpleNamespace

    return SimpleNamespace(
        module=module,
        device=torch.device("cpu"),
        optimizer=None,
        forward=module.forward,
        backward=lambda loss: loss.backward(),
        step=lambda: module.zero_grad(),
    )


@pytest.fixture
def backend(monkeypatch):
    """A stand-in for DeepSpeed's backend object, whose collectives the ledger marks."""
    from types import SimpleNamespace

    from deepspeed.comm import comm

    from labsupport.measure.timeline import COLLECTIVES

    backend = SimpleNamespace(**{name: (lambda *tensors, **_: tensors) for name, *_ in COLLECTIVES})
    monkeypatch.setattr(comm, "cdb", backend)
    return backend


def test_the_peak_of_a_step_sees_what_the_step_frees_again(backend):
    from labsupport.measure.ledger import held_bytes
    from labsupport.measure.timeline import peak_step_bytes

    engine = engine_of(torch.nn.Linear(2, 1))
    at_rest = sum(held_bytes(engine).values())
    peak = peak_step_bytes(engine, lambda: torch.zeros(1_000_000).sum())
    assert peak - at_rest == pytest.approx(4_000_000, rel=0.01)


def test_a_watched_step_sorts_its_bytes_and_ends_where_it_began(backend):
    from labsupport.measure.ledger import held_bytes
    from labsupport.measure.timeline import watch_step

    engine = engine_of(torch.nn.Sequential(torch.nn.Linear(256, 512, bias=False), torch.nn.Tanh()))
    data = torch.ones(1024, 256)

    def step():
        loss = engine.forward(data).sum()
        engine.backward(loss)
        bucket = torch.ones(250_000)
        backend.all_reduce(bucket)
        del bucket
        engine.step()

    step()
    base = held_bytes(engine)
    watched = watch_step(engine, step)
    weights, outputs = 4 * 256 * 512, 4 * 1024 * 512
    most = {role: max(held[role] for _, held in watched.timeline) for role in base}
    assert most["parameters"] == weights == base["parameters"]
    assert most["gradients"] == weights
    assert most["communication buckets"] == 1_000_000
    assert 2 * outputs <= most["activations"] <= 4 * outputs, "the layer's output, tanh's, and gradients of both"
    assert sum(watched.timeline[-1][1].values()) == pytest.approx(sum(base.values()), abs=1000)
    assert [phase for phase, _ in watched.timeline] == sorted(
        (phase for phase, _ in watched.timeline), key=PHASES.index
    )
    assert watched.peak_bytes == max(sum(held.values()) for _, held in watched.thinned(10))


PHASES = ["forward", "backward", "step"]


def test_watching_leaves_the_engine_and_the_backend_as_they_were(backend):
    from labsupport.measure.timeline import watch_step

    engine = engine_of(torch.nn.Linear(2, 1))
    before = dict(vars(engine)), dict(vars(backend))
    with pytest.raises(ZeroDivisionError):
        watch_step(engine, lambda: 1 / 0)
    assert (dict(vars(engine)), dict(vars(backend))) == before
    assert not engine.module._forward_pre_hooks and not engine.module.weight._backward_hooks


def test_two_watched_steps_of_one_engine_are_equal_to_the_byte(two_ranks):
    for first, second in two_ranks.run(rank_work.two_watched_steps):
        assert first == second
