import asyncio
import json
import logging
from pathlib import Path

import pytest

from service.security.caller import Allowance
from service.security.keeper import Keeper
from service.security.limits import Limits
from service.security.usage import load_usage, save_usage


class Part:
    def __init__(self) -> None:
        self.trouble: str | None = None
        self.looks = 0

    def refresh(self) -> None:
        self.looks += 1
        if self.trouble:
            raise RuntimeError(self.trouble)


def test_each_part_is_refreshed_and_trouble_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    failures: list[int] = []
    bad, good = Part(), Part()
    keeper = Keeper((bad, good), Limits(), None, lambda: failures.append(1))

    async def three() -> None:
        with caplog.at_level(logging.INFO):
            bad.trouble = "no such file"
            await keeper.once()
            await keeper.once()
            bad.trouble = None
            await keeper.once()

    asyncio.run(three())
    assert (bad.looks, good.looks, len(failures)) == (3, 3, 2)
    told = [(record.levelname, record.__dict__.get("fields", {}).get("reason")) for record in caplog.records]
    assert told == [("ERROR", "no such file"), ("INFO", None)]


def test_counts_outlive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "usage.json"
    limits = Limits(wall_clock=lambda: 86_400.0 * 10)
    limits.take("key:1", Allowance(daily=5))
    asyncio.run(Keeper((), limits, path, lambda: None).once())
    assert json.loads(path.read_text()) == {"day": 10, "used": {"key:1": 1}}
    again = Limits(wall_clock=lambda: 86_400.0 * 10)
    Keeper((), again, path, lambda: None)
    assert again.used() == {"key:1": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_counts_are_written_only_when_they_changed(tmp_path: Path) -> None:
    path = tmp_path / "usage.json"
    limits = Limits()
    keeper = Keeper((), limits, path, lambda: None)

    async def twice() -> None:
        await keeper.once()
        path.unlink()
        await keeper.once()

    asyncio.run(twice())
    assert not path.exists()


def test_a_full_disk_is_told_and_the_service_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keeper = Keeper((), Limits(), tmp_path / "missing" / "usage.json", lambda: None)
    asyncio.run(keeper.once())
    (record,) = caplog.records
    assert "cannot be written" in record.__dict__["fields"]["reason"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"day": 1}', '{"day": 1, "used": [1]}', '{"day": 1, "used": {"a": "x"}}']
)
def test_a_damaged_file_counts_from_nothing_and_says_so(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "usage.json"
    path.write_text(text)
    assert load_usage(path) == (0, {})
    assert caplog.records


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "usage.json"
    save_usage(path, 1, {"a": 1})

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        save_usage(path, 1, {"a": 2})
    assert load_usage(path) == (1, {"a": 1})


def test_the_keeper_looks_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.security.keeper.SECONDS", 0.001)
    part = Part()

    async def run() -> None:
        task = asyncio.create_task(Keeper((part,), Limits(), None, lambda: None).run())
        while part.looks < 3:  # noqa: ASYNC110 - what is waited for happens in threads
            await asyncio.sleep(0.001)
        task.cancel()

    asyncio.run(asyncio.wait_for(run(), 10))
