"""The memory that models may take together."""

import pytest

from service.errors import MemoryLimit
from service.repository.memory import MemoryBudget


def test_what_does_not_fit_is_refused_and_costs_nothing() -> None:
    budget = MemoryBudget(100)
    budget.reserve(60)
    with pytest.raises(MemoryLimit, match="memory_limit_bytes=100 are free: unload a model") as caught:
        budget.reserve(41)
    assert caught.value.details == {"bytes_estimate": 41, "used_bytes": 60, "limit_bytes": 100}
    budget.reserve(40)
    budget.release(60)
    budget.reserve(60)
    assert budget.used_bytes == 100


def test_without_a_limit_all_is_counted_and_nothing_refused() -> None:
    budget = MemoryBudget(0)
    budget.reserve(1 << 60)
    assert budget.used_bytes == 1 << 60
