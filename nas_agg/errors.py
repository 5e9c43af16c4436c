"""Public errors: what every call and every command may raise, each with a message of one line."""

from __future__ import annotations

from nas_agg.common.errors import GenotypeError, InputError, NasAggError

__all__ = ["GenotypeError", "InputError", "NasAggError"]
