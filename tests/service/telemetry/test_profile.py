import threading
import time
from collections.abc import Iterator

import pytest

from service.telemetry.profile import profile, stacks


class Busy:
    def __init__(self) -> None:
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.spin_here, name="spinner;one")

    def spin_here(self) -> None:
        while not self.stop.is_set():
            time.sleep(0.0005)


@pytest.fixture
def _busy() -> Iterator[None]:
    busy = Busy()
    busy.thread.start()
    yield
    busy.stop.set()
    busy.thread.join()


@pytest.mark.usefixtures("_busy")
def test_a_profile_shows_where_each_thread_stands() -> None:
    lines = profile(0.2, 200).splitlines()
    spinning = [line for line in lines if "Busy.spin_here" in line]
    assert sum(int(line.rpartition(" ")[2]) for line in spinning) > 5
    assert "(test_profile.py:" in spinning[0]
    assert not any("profile (profile.py" in line for line in lines)  # itself is left out
    counts = [int(line.rpartition(" ")[2]) for line in lines]
    assert counts == sorted(counts, reverse=True)


@pytest.mark.usefixtures("_busy")
def test_stacks_name_every_thread() -> None:
    text = stacks()
    assert "MainThread\n" in text
    assert "spinner" in text
    assert "in spin_here" in text
