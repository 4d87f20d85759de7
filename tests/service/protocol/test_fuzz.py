import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.protocol.call import InferCall
from service.protocol.decode import decode
from tests.service.protocol.fuzz import MODELS, check, one_input, seeds
from tests.service.protocol.requests import LIMITS, ONE


@pytest.mark.parametrize("seed", seeds())
def test_the_seeds_are_good_requests(seed: bytes) -> None:
    model, length = MODELS[seed[0]], int.from_bytes(seed[1:3], "little")
    check(decode(seed[3:], None if length == 0xFFFF else length, model, LIMITS), model)


@given(seed=st.sampled_from(seeds()), data=st.data())
def test_a_changed_request_is_refused_in_words_or_fits_the_model(seed: bytes, data: st.DataObject) -> None:
    changed = bytearray(seed)
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(changed)))
        changed[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    one_input(bytes(changed))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_words_or_fit_the_model(data: bytes) -> None:
    one_input(data)


def test_the_checks_notice_what_the_engine_could_not_bear() -> None:
    with pytest.raises(AssertionError):
        check(InferCall({"x": np.zeros((1, 4), np.float64)}, 1, ONE.default_outputs), ONE)
    with pytest.raises(AssertionError):
        check(InferCall({"x": np.zeros((2, 4), np.float32)}, 1, ONE.default_outputs), ONE)
