"""PREDICTED: what a rank will hold and send, before anything is run. No torch."""

from labsupport.memory.messages import predicted_collectives, times_ddp, total_wire_bytes, wire_bytes
from labsupport.memory.moments import MOMENTS
from labsupport.memory.paper import model_state_bytes, model_state_parts, paper_elements
from labsupport.memory.planner import Plan, plan, plan_of
from labsupport.memory.roles import MODEL_STATES, PLACES, ROLES
from labsupport.memory.room import fits, largest_model, smallest_world_size

__all__ = [
    "MODEL_STATES",
    "MOMENTS",
    "PLACES",
    "ROLES",
    "Plan",
    "fits",
    "largest_model",
    "model_state_bytes",
    "model_state_parts",
    "paper_elements",
    "plan",
    "plan_of",
    "predicted_collectives",
    "smallest_world_size",
    "times_ddp",
    "total_wire_bytes",
    "wire_bytes",
]
