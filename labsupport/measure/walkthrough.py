"""One real training step at each ZeRO stage, frame by frame: which rank holds what of which block, and what is sent.

    recorded = join(run, ranks.run(record_step, run))      # a run is one of runs()

A frame begins when something begins: a block's forward or backward pass, a collective, a release, the optimizer.
What it says is held is what was held when the next one began. labsupport/step_through.js draws the frames that
`python benchmarks/walkthrough.py` recorded.
"""

import contextlib
import io

from labsupport.config import create_deepspeed_config, merge_configs, zero_stage
from labsupport.errors import LabError
from labsupport.measure.blocks import (
    BLOCKS,
    ROLES,
    block_modules,
    block_parameters,
    bucket_parameters,
    held_by_block,
    tensor_bytes,
)
from labsupport.measure.timeline import around_calls
from labsupport.memory.messages import total_wire_bytes
from labsupport.runs import Run
from labsupport.settings import read_settings
from labsupport.shapes import Shape

# Embedding, layers and head have 262,400 elements each (the head 128 more): a bucket of gradients is one block.
MODEL = Shape("llama", 4, 128, 4, 256, 512, vocabulary=2050)
BUCKET_SIZE = 262_600
WARM_UP_STEPS = 3  # stage 3 records the order of the modules first, and releases by it afterwards
CONTROL_BYTES = 8  # all-reduces up to this size agree on the gradient norm or on overflow
COLLECTIVES = {  # methods of DeepSpeed's backend object: where its arguments have the message
    "all_reduce": (0, "tensor"),
    "reduce": (0, "tensor"),
    "reduce_scatter_tensor": (1, "input_tensor"),
    "all_gather_into_tensor": (1, "input_tensor"),
    "all_gather": (1, "tensor"),
}


def runs():
    """Return the Runs to record: every stage on 2 and 4 ranks, stages 1 and 2 also with gradients sent to owners."""
    return [
        Run(MODEL, _config(stage, ranks, to_owners), ranks, note="gradients to their owners" if to_owners else "")
        for ranks in (2, 4)
        for stage, to_owners in ((0, False), (1, False), (1, True), (2, False), (2, True), (3, False))
    ]


def _config(stage, ranks, to_owners):
    config = create_deepspeed_config(
        stage,
        precision="bf16",
        world_size=ranks,
        micro_batch_size=1,
        train_batch_size=ranks,
        bucket_size=BUCKET_SIZE,
    )
    more = {}
    if stage in (1, 2):
        more = {"allgather_bucket_size": 500_000_000, "use_multi_rank_bucket_allreduce": not to_owners}
    if stage == 3:
        # Each layer is gathered as a whole, and released after use however small the model is.
        more = {
            "stage3_max_live_parameters": 0,
            "stage3_max_reuse_distance": 0,
            "leaf_module": {"classes": ["LlamaDecoderLayer"]},
        }
    return merge_configs(config, {"zero_optimization": more})


def record_step(run):
    """Train a Run's model on this rank and return {"elements", "frames", "collectives", "rest"} of one step.

    Every rank must call it. elements: of each of BLOCKS. frames: this rank's, see Recorder. collectives:
    {collective: message bytes} of the step after, as DeepSpeed's comms_logger counts them. rest: {role: bytes}
    that the ledger counts after the recorded step.
    """
    import torch

    from labsupport.measure.collectives import measured_collectives
    from labsupport.measure.ledger import held_bytes
    from labsupport.models import build_model
    from labsupport.trainer import DeepSpeedTrainer

    with contextlib.redirect_stdout(io.StringIO()):
        trainer = DeepSpeedTrainer(build_model(run.shape), run.config)
    engine = trainer.engine
    tokens = torch.arange(run.sequence_length).reshape(1, run.sequence_length) + torch.distributed.get_rank()
    batch = {"input_ids": tokens, "labels": tokens.clone()}
    for _ in range(WARM_UP_STEPS):
        trainer.train_step(batch)
    recorder = Recorder(engine)
    with recorder.watching():
        trainer.train_step(batch)
    result = {
        "elements": [sum(getattr(p, "ds_numel", p.numel()) for p in ps) for ps in block_parameters(engine.module)],
        "frames": recorder.frames,
        "rest": held_bytes(engine, everything=False),
        "collectives": measured_collectives(engine, lambda: trainer.train_step(batch)),
    }
    engine.destroy()
    return result


def join(run, results):
    """Return a Run as it is recorded, from what record_step gave on each rank, in the order of the ranks.

    The collectives are the ranks' common clock: every rank has the same frames. A frame gets "wire_bytes", what one
    rank sends by labsupport.memory.messages, and keeps of "held" ({role: {block: [bytes by rank]}}) and "live"
    ({role: [bytes by rank]}) what is not as in the frame before. Raises LabError where the ranks' frames differ.
    """
    by_rank = [result["frames"] for result in results]
    names = [[(frame["event"], frame["blocks"], frame["sent"]) for frame in frames] for frames in by_rank]
    if any(name != names[0] for name in names):
        raise LabError("The ranks did not do the same things in the same order: record this run again.")
    return {
        "stage": zero_stage(run.config),
        "world_size": run.world_size,
        "to_owners": not read_settings(run.config, run.world_size).multi_rank_allreduce,
        "config": run.config,
        "elements": results[0]["elements"],
        "frames": list(_joined_frames(by_rank)),
        "collectives": results[0]["collectives"],
        "rest": [result["rest"] for result in results],
    }


def _joined_frames(by_rank):
    nothing = [0] * len(by_rank)
    before = {}
    for moments in zip(*by_rank, strict=True):
        now = {(role, n): [m["held"][role][n] for m in moments] for role in ROLES for n in range(len(BLOCKS))}
        now |= {("live", role): [moment["live"][role] for moment in moments] for role in moments[0]["live"]}
        frame = {key: moments[0][key] for key in ("event", "blocks", "goes_on", "sent", "to") if moments[0].get(key)}
        if _is_idle(frame, before, now):
            continue
        frame |= {"wire_bytes": round(total_wire_bytes(frame.get("sent", {}), len(by_rank))), "held": {}, "live": {}}
        for (role, part), count in now.items():
            if count != before.get((role, part), nothing):
                (frame["live"] if role == "live" else frame["held"].setdefault(role, {}))[str(part)] = count
        before = now
        yield frame


def _is_idle(frame, before, now):
    """Whether nothing was released, since small tensors stay whole, or a backward pass had no gradient left."""
    if frame["event"] == "release":
        return all(before[key] == now[key] for key in now if key[0] == "gathered parameters")
    return "goes_on" in frame and all(now["gradients", n] <= before["gradients", n] for n in frame["blocks"])


class Recorder:
    """Writes the frames of one rank; each has "event", "blocks" (numbers in BLOCKS), "sent", "held" and "live".

    sent: {collective: message bytes}; held: {role: [bytes of each block]}; live: {role: bytes} as the ledger
    counts storages, with the buckets. to: {rank: message bytes} where a reduce hands the sum to one rank. The few
    bytes that agree on the gradient norm count in the frame that is open. What is made and freed again within one
    frame is not seen: labsupport.measure.timeline follows that.
    """

    def __init__(self, engine):
        self.engine, self.frames = engine, []
        self.modules = block_modules(engine.module)
        self.block_of = {id(p): number for number, ps in enumerate(block_parameters(engine.module)) for p in ps}

    @contextlib.contextmanager
    def watching(self):
        """While it lasts, everything that the engine does becomes a frame."""
        undo = [*self._watch_modules(), *self._watch_releases(), *self._watch_collectives()]
        undo.append(around_calls(self.engine.optimizer, "step", before=lambda *_, **__: self.begin("step", [])))
        if hasattr(self.engine.optimizer, "reduce_ipg_grads"):  # stage 2 reduces while a backward pass goes on
            undo.append(around_calls(self.engine.optimizer, "reduce_ipg_grads", after=self._resume))
        self.begin("rest", [])
        try:
            yield
            self.begin("rest", [])
            self._end()
        finally:
            for restore in undo:
                restore()

    def begin(self, event, blocks, sent=None, to=None):
        """End the frame that is open and begin another, unless the open one goes on."""
        if self.frames and self._goes_on(event, blocks):
            self._add(sent or {}, to)
            return
        self._end()
        self.frames.append({"event": event, "blocks": blocks, "sent": {}, "to": {}})
        self._add(sent or {}, to)

    def _resume(self):
        """After a reduction in the middle of a backward pass, that pass goes on."""
        backward = [frame for frame in self.frames if frame["event"] == "backward"]
        if backward and self.frames[-1]["event"] in ("all_reduce", "reduce"):
            self.begin("backward", backward[-1]["blocks"])
            self.frames[-1]["goes_on"] = True

    def _goes_on(self, event, blocks):
        last = self.frames[-1]
        if last["event"] == "step" and event == "release":  # the step drops the small tensors that are whole
            return True
        return (last["event"], last["blocks"]) == (event, blocks)

    def _add(self, sent, to):
        for name, message_bytes in sent.items():
            self.frames[-1]["sent"][name] = self.frames[-1]["sent"].get(name, 0) + message_bytes
            if to is not None:
                self.frames[-1]["to"][str(to)] = self.frames[-1]["to"].get(str(to), 0) + message_bytes

    def _end(self):
        from labsupport.measure.ledger import held_bytes

        if self.frames:
            held = held_by_block(self.engine, self.block_of)
            self.frames[-1] |= {"held": held, "live": held_bytes(self.engine, everything=False)}

    def _watch_modules(self):
        for number, module in enumerate(self.modules):

            def forward(*_, number=number):
                self.begin("forward", [number])

            def output(_module, _inputs, result, number=number):
                result.register_hook(lambda _: self.begin("backward", [number]))

            # The pre-hook comes after DeepSpeed's, which gathers. The output's hook comes before DeepSpeed's wraps
            # the output, so that in the backward pass it is called after the gathering.
            yield module.register_forward_pre_hook(forward).remove
            yield module.register_forward_hook(output, prepend=True).remove

    def _watch_releases(self):
        for parameter in self.engine.module.parameters():
            if hasattr(parameter, "ds_tensor"):

                def released(param_list=None, *_, own=parameter, **__):
                    self.begin("release", self._blocks(param_list or [own]))

                yield around_calls(parameter, "partition", before=released)

    def _watch_collectives(self):
        from deepspeed.comm import comm

        for name, (position, keyword) in COLLECTIVES.items():

            def sent(*positional, name=name, position=position, keyword=keyword, **named):
                message_bytes = tensor_bytes(positional[position] if len(positional) > position else named[keyword])
                plain = name.removesuffix("_into_tensor").removesuffix("_tensor")
                if plain == "all_reduce" and message_bytes <= CONTROL_BYTES:
                    self._add({plain: message_bytes}, None)
                    return
                to = (positional[1:2] or [named["dst"]])[0] if plain == "reduce" else None
                self.begin(plain, self._blocks_sent(plain), {plain: message_bytes}, to)

            yield around_calls(comm.cdb, name, before=sent)

    def _blocks_sent(self, name):
        parameters = list(self.engine.module.parameters())
        if name == "all_gather":
            in_flight = [p for p in parameters if getattr(getattr(p, "ds_status", None), "name", "") == "INFLIGHT"]
            small = [p for p in parameters if getattr(p, "ds_persist", False)]  # after the step, at stage 3
            return self._blocks(in_flight or small or parameters)
        return self._blocks(bucket_parameters(self.engine.optimizer) or parameters)

    def _blocks(self, parameters):
        return sorted({self.block_of[id(parameter)] for parameter in parameters})
