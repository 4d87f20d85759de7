"""Wrong formulas and mixed-up axes are noticed: each is put into the running service, and the tests must fail."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from service.gates import plan, quantities, subject
from service.gates.selection import Selection
from service.gates.step import FORMULAS
from tests.service.gates.conftest import Served
from tests.service.gates.test_gates_parity import (
    test_a_selection_is_a_slice_of_the_whole as selected,
)
from tests.service.gates.test_gates_parity import (
    test_every_quantity_is_the_torch_models as parity,
)
from tests.service.gates.test_gates_parity import (
    test_the_identities_hold_on_the_returned_numbers as identities,
)
from tests.service.gates.test_gates_parity import test_write_only_has_no_contraction as write_only

Patch = Callable[[pytest.MonkeyPatch], None]


def swapped_sublayers(patch: pytest.MonkeyPatch) -> None:
    stack = subject._stack
    patch.setattr(subject, "_stack", lambda arrays, one: stack([arrays[i ^ 1] for i in range(len(arrays))], one))


def transposed(patch: pytest.MonkeyPatch) -> None:
    right = FORMULAS["beta"]
    patch.setitem(FORMULAS, "beta", lambda c: right(c).T.reshape(right(c).shape))


def next_site(patch: pytest.MonkeyPatch) -> None:
    right = FORMULAS["e_post"]
    patch.setitem(FORMULAS, "e_post", lambda c: np.roll(right(c), 1, 0))


def other_target(patch: pytest.MonkeyPatch) -> None:
    """The target before its map, or after one that it does not have."""
    patch.setitem(FORMULAS, "v", lambda c: 4 / (1 + np.exp(-c["v"])))


@pytest.mark.parametrize("mutant", [swapped_sublayers, transposed, next_site, other_target])
def test_a_mutant_is_noticed(served: Served, mutant: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    parity(served, "words")
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        parity(served, "words")


def test_an_error_after_the_wrong_site_breaks_the_identities(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    next_site(monkeypatch)
    with pytest.raises(AssertionError):
        identities(served, "words")


def next_position(right: Selection) -> Selection:
    return Selection(right.sites, tuple(place - (place > 0) for place in right.positions))


def other_sublayer(right: Selection) -> Selection:
    gates = right.sites
    return Selection(tuple(site.model_copy(update={"index": site.index ^ 1}) for site in gates), right.positions)


def unordered(right: Selection) -> Selection:
    return Selection(right.sites, right.positions[::-1])


@pytest.mark.parametrize("mutant", [next_position, other_sublayer, unordered])
def test_a_wrong_selection_is_noticed(
    served: Served, mutant: Callable[[Selection], Selection], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = plan.resolve

    def wrong(select: Any, gates: Any, count: int) -> Selection:
        found = resolve(select, gates, count)
        return found if len(found.positions) == count else mutant(found)

    monkeypatch.setattr(plan, "resolve", wrong)
    with pytest.raises(AssertionError):
        selected(served)


def test_an_eigenvalue_of_write_only_is_noticed(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    everywhere: Any = lambda name, gates: True  # noqa: E731 - a wrong answer in place of a right one
    monkeypatch.setattr(quantities, "defined", everywhere)
    with pytest.raises((AssertionError, KeyError)):  # the answer is none of an error
        write_only(served)
