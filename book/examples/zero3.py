"""ZeRO-3 with DeepSpeed: the config says what is partitioned."""

from labsupport import create_deepspeed_config, initialize_deepspeed


def train(model, batches, world_size):
    config = create_deepspeed_config(
        stage=3,
        precision="fp32",
        train_batch_size=4 * world_size,
        world_size=world_size,
        gradient_clipping=0.0,
        lr=1e-3,
    )
    engine, _, _, _ = initialize_deepspeed(model, config)
    losses = []
    for batch in batches:
        loss = engine(**batch).loss
        engine.backward(loss)
        engine.step()
        losses.append(loss.item())
    return losses
