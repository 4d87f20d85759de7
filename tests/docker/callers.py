"""Callers that never pause, and tell what became of each request they sent."""

import http.client
import threading
from dataclasses import dataclass, field


@dataclass
class Tally:
    """What callers saw: answers with 200, and everything else in words."""

    answered: int = 0
    failed: list[str] = field(default_factory=list)


class Callers:
    """Callers on connections of their own, which leave when an answer says that it is the connection's last."""

    def __init__(self, port: int, path: str, body: bytes, media: str, count: int) -> None:
        """Start them."""
        self.tally = Tally()
        self._stop = threading.Event()
        self._address = ("127.0.0.1", port)
        self._request = ("POST", path, body, {"Content-Type": media})
        self._threads = [threading.Thread(target=self._call, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def finish(self, seconds: float) -> Tally:
        """Wait until all have left by themselves, or end them after some time."""
        for thread in self._threads:
            thread.join(seconds)
        self._stop.set()
        for thread in self._threads:
            thread.join(10)
        return self.tally

    def _call(self) -> None:
        connection = http.client.HTTPConnection(*self._address, timeout=30)
        try:
            while not self._stop.is_set():
                connection.request(*self._request)
                answer = connection.getresponse()
                answer.read()
                if answer.status == 200:
                    self.tally.answered += 1
                else:
                    self.tally.failed.append(f"status {answer.status}")
                if answer.getheader("Connection", "").lower() == "close":
                    return
        except (OSError, http.client.HTTPException) as error:
            self.tally.failed.append(repr(error))
        finally:
            connection.close()
