"""From a config to its findings."""

import labsupport.doctor.rules  # noqa: F401 - registers them
from labsupport.arguments import require_positive_integer
from labsupport.doctor.case import Case
from labsupport.doctor.findings import found_in


def diagnose(config, world_size=None, accelerator=None, gpu=None, parameters=None, hugging_face=False, document=None):
    """Return the Findings about a ds_config, the worst first.

    config: what a file holds or a dict would be handed over, whatever it is. world_size: ranks; without it a batch is
    judged on any number of them. accelerator: "cpu", "cuda", or None where that is open. gpu: a machine.cards.Card.
    parameters: of the model. hugging_face: whether the Trainer hands it over, which fills in some "auto". document:
    the Document that it was read from, which knows the places. Raises ConfigError for a number of ranks that is none.
    """
    if world_size is not None:
        require_positive_integer("world_size", world_size)
    return found_in(Case(config, world_size, accelerator, gpu, parameters, hugging_face, document))
