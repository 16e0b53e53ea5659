"""What a reader's own trainer gets wrong at the milestone, and what is told then."""

from labsupport.exercises.exercise import Mistake

MISTAKES = {
    "hangs": Mistake(
        "Your module had not come to its end in time and was stopped: look for an endless loop, at its top "
        "level too, and for a collective that not every rank calls."
    ),
    "config": Mistake(
        "{begin} Asked for stage 2 and 8 samples an update, it makes DeepSpeed read stage {stage} and {batch} samples."
    ),
    "not four": Mistake(
        "{begin} It returns a {got}. deepspeed.initialize returns four objects, and so should it: the engine, the "
        "optimizer, the dataloader and the scheduler."
    ),
    "another model": Mistake(
        "{begin} The first object that it returns is a {kind}, and its `module` a {module}: that is not the model that "
        "was passed, and the caller's model would keep its first weights.",
        "`engine.module is model` has to be true.",
    ),
    "client ignored": Mistake(
        "{begin} An optimizer was passed (Adam, lr 0.01), and the engine steps with another one: {kind}, lr {lr}. "
        "DeepSpeed uses a client optimizer only where it is handed over as `optimizer`."
    ),
    "as in the lab": Mistake("{begin} Exercise {exercise} says of it: {message}"),
    "another stage": Mistake(
        "{begin} The engine runs stage {stage}, and the config that was passed asks for stage 2: pass it on as it is."
    ),
    "loss of one rank": Mistake(
        "{begin} The two ranks report {first:.4f} and {second:.4f} for the same step, and it has one loss. Usually "
        "each shows that of its own half of the batch: average it over the ranks."
    ),
    "loss of the first step": Mistake(
        "{begin} The first loss is {got:.4f}, and plain PyTorch measures {wanted:.4f} on the same samples before any "
        "update. What is returned is not the mean over the ranks of the loss of this batch."
    ),
    "other losses": Mistake(
        "{begin} Step {number} has a loss of {got:.4f}, and plain PyTorch one of {wanted:.4f}: the weights went "
        "another way. Call backward and step of the engine once for each batch, and let the engine do the rest."
    ),
    "epoch steps": Mistake("{begin} Three epochs made {got} updates, and their batches ask for {wanted}."),
    "epoch losses": Mistake(
        "{begin} The three epochs report {losses}, which does not fall: return the mean loss of the epoch's batches."
    ),
    "rank 0 alone": Mistake(
        "{begin} Not every rank came to engine.save_checkpoint. Each rank writes its own part and waits for the "
        "others; usually the call stands under `if rank == 0`. Call it on all ranks."
    ),
    "no checkpoint": Mistake(
        "{begin} The folder holds {files} optimizer files. Two ranks at stage 2 write two, and a file called latest "
        "beside the tag's folder. torch.save of the model keeps neither."
    ),
    "client state": Mistake(
        "{begin} The dict that was saved, with an epoch and a note, did not come back: load_checkpoint returned {got}."
    ),
    "resumed run": Mistake(
        "{begin} Step {number} after the resume has a loss of {got:.6f}, and the run that never stopped {wanted:.6f}: "
        "something that training needs was not loaded.",
        "engine.load_checkpoint(folder) brings weights, master weights, the optimizer's states and the counters.",
    ),
    "offload": Mistake(
        "{begin} Laid over a config of stage 2, its result gives an optimizer offload to {device} at stage {stage}. "
        'A fragment is {{"zero_optimization": {{"offload_optimizer": {{"device": "cpu"}}}}}} and names no stage.'
    ),
}
