"""Memory runs out in the middle of a request: it is answered as a failure of ours, and the next one is answered."""

from typing import Any

import numpy as np
import pytest

from service.runtime.session import OrtSession
from tests.service.conftest import Client
from tests.service.reliability.process import BODY, PATH

JSON = {"content-type": "application/json"}


def no_memory(*_: Any, **__: Any) -> Any:
    raise MemoryError


@pytest.mark.parametrize(
    ("where", "slug"),
    [
        ("service.runtime.session.OrtSession.run", "model-failed"),
        ("service.api.predict.decode", "internal"),
        ("service.api.predict.encode", "internal"),
    ],
)
def test_the_request_fails_and_the_next_is_answered(
    client: Client, monkeypatch: pytest.MonkeyPatch, where: str, slug: str
) -> None:
    assert isinstance(client.state.repository.get("tiny").session, OrtSession)
    with monkeypatch.context() as context:
        context.setattr(where, no_memory)
        answer = client.post(PATH, content=BODY, headers=JSON)
    assert answer.status_code == 500
    assert answer.json()["type"] == f"urn:ddl:problem:{slug}"
    after = client.post(PATH, content=BODY, headers=JSON)
    assert after.status_code == 200
    assert np.isfinite(after.json()["outputs"][0]["data"]).all()
