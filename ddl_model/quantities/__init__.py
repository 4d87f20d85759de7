"""Everything that the gates API names about a pass, computed in the model itself: the reference for the service.

`trace` runs a model and returns what was asked for; `measure` does so for what an `Observer` kept. Definitions, axes
and units: `CATALOGUE`.
"""

from ddl_model.quantities.catalogue import CATALOGUE, COMPANIONS, PRESETS, Quantity, QuantityError
from ddl_model.quantities.trace import Trace, measure, trace

__all__ = ["CATALOGUE", "COMPANIONS", "PRESETS", "Quantity", "QuantityError", "Trace", "measure", "trace"]
