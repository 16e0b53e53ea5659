"""MEASURED: what a rank holds and sends, counted on the live engine, and set beside what was predicted."""

from labsupport import lazily

_MODULE_OF = {
    "held_by_place": "ledger",
    "held_bytes": "ledger",
    "measured_by_phase": "collectives",
    "measured_collectives": "collectives",
    "model_state_total": "ledger",
    "model_states": "agreement",
    "other_bytes": "ledger",
    "watch_step": "timeline",
}

__all__ = sorted(_MODULE_OF)
__getattr__ = lazily(__name__, _MODULE_OF)
