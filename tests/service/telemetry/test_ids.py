import pytest

from service.telemetry.ids import TraceParent, request_id, trace_parent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize("given", [b"a", b"trace-42:a.b_c", b"x" * 64])
def test_a_fit_id_is_kept(given: bytes) -> None:
    assert request_id(given) == given.decode()


@pytest.mark.parametrize("given", [None, b"", b"a b", b"x" * 65, b"<script>", b"a\tb", b"a\n", "é".encode()])
def test_another_is_replaced_by_a_new_one(given: bytes | None) -> None:
    one, other = request_id(given), request_id(given)
    assert one != other
    assert len(one) == 32
    assert int(one, 16) >= 0


@pytest.mark.parametrize(
    ("given", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f" 00-{TRACE}-{SPAN}-01 ", True),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", True),
    ],
)
def test_a_valid_parent_is_read(given: str, sampled: bool) -> None:
    assert trace_parent(given.encode()) == TraceParent(TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"cc-{TRACE}-{SPAN}-01x",
    ],
)
def test_an_invalid_parent_starts_a_new_trace(given: str | None) -> None:
    assert trace_parent(None if given is None else given.encode()) is None
