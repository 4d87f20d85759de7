import io
import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest

from service.logs import GatheringHandler, JsonFormatter


def record(message: str, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("service.x", logging.WARNING, __file__, 1, message, None, None)
    made.created = 1767225600.25
    made.__dict__["fields"] = fields
    return made


def test_a_record_is_one_object() -> None:
    line = JsonFormatter().format(record("request", path="/v2", status=200, ms=1.23456, where=Path("a/b")))
    assert json.loads(line) == {
        "time": "2026-01-01T00:00:00.250Z",
        "level": "warning",
        "logger": "service.x",
        "message": "request",
        "path": "/v2",
        "status": 200,
        "ms": 1.235,
        "where": "a/b",
    }


@pytest.mark.parametrize("text", ["a\nb", "a\r\n{}", "\x1b[31m", 'quo"te', "", "\u2028", "\ud800", "\x00"])
def test_no_value_can_break_a_line(text: str) -> None:
    line = JsonFormatter().format(record(text, value=text))
    assert len(line.splitlines()) == 1 or text == "\u2028"
    assert "\n" not in line
    assert json.loads(line)["value"] == text
    assert json.loads(line)["message"] == text


def test_a_field_cannot_pretend_to_be_a_standard_member() -> None:
    made = json.loads(JsonFormatter().format(record("m", level="error", time=1)))
    assert (made["level"], made["level_"], made["time_"]) == ("warning", "error", 1)


def test_a_traceback_stays_in_its_line() -> None:
    made = record("failed")
    try:
        raise ValueError("why\nnot")
    except ValueError:
        made.exc_info = sys.exc_info()
    line = JsonFormatter().format(made)
    assert "\n" not in line
    assert "ValueError: why" in json.loads(line)["traceback"]


def test_the_process_writes_it() -> None:
    code = (
        "import logging, warnings; from service.logs import configure_logs; configure_logs('info', 'json');"
        "logging.getLogger('x').info('hello', extra={'fields': {'n': 1}});"
        "logging.getLogger('x').debug('no'); warnings.warn('careful')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = map(json.loads, result.stderr.splitlines())
    assert (first["message"], first["n"], first["level"]) == ("hello", 1, "info")
    assert "careful" in second["message"]


class Stream(io.StringIO):
    def __init__(self) -> None:
        super().__init__()
        self.writes = 0
        self.full = False

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(28, "No space left on device")
        self.writes += 1
        return super().write(text)


@pytest.fixture
def gathered(monkeypatch: pytest.MonkeyPatch) -> tuple[Stream, GatheringHandler]:
    """Return a stream and a handler that writes to it when it is told to, or must."""
    monkeypatch.setattr("service.logs._FLUSH_SECONDS", 3600.0)
    stream = Stream()
    handler = GatheringHandler(stream)
    handler.setFormatter(JsonFormatter())
    return stream, handler


def info(message: str) -> logging.LogRecord:
    return logging.LogRecord("x", logging.INFO, __file__, 1, message, None, None)


def test_lines_are_written_together(gathered: tuple[Stream, GatheringHandler]) -> None:
    stream, handler = gathered
    for number in range(50):
        handler.handle(info(str(number)))
    assert stream.writes == 0
    handler.flush()
    assert stream.writes == 1
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == [str(n) for n in range(50)]


def test_a_warning_is_written_at_once_after_what_came_before(gathered: tuple[Stream, GatheringHandler]) -> None:
    stream, handler = gathered
    handler.handle(info("before"))
    handler.handle(record("trouble"))
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["before", "trouble"]


def test_what_is_gathered_is_bounded(gathered: tuple[Stream, GatheringHandler]) -> None:
    stream, handler = gathered
    for number in range(2500):
        handler.handle(info(str(number)))
    assert stream.writes == 2


def test_a_full_disk_loses_lines_and_nothing_else(gathered: tuple[Stream, GatheringHandler]) -> None:
    stream, handler = gathered
    stream.full = True
    handler.handle(record("lost"))
    stream.full = False
    handler.handle(record("kept"))
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["kept"]


def test_lines_are_written_soon_without_being_told() -> None:
    stream = Stream()
    handler = GatheringHandler(stream)
    handler.handle(info("soon"))
    deadline = time.monotonic() + 10
    while not stream.writes and time.monotonic() < deadline:
        time.sleep(0.01)
    assert stream.writes == 1
