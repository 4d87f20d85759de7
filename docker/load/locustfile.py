"""What users of the service do, for Locust: name one class, or `Mixed`, on Locust's command line.

    locust -f docker/load/locustfile.py --host http://127.0.0.1:8000 Mixed                      # web page at 8089
    locust -f docker/load/locustfile.py --host http://127.0.0.1:8000 --headless --users 8 --run-time 30s Classify

A user sends its next request as soon as it has an answer, so the number of users is the concurrency. Variables:
LOAD_IMAGE_MODEL and LOAD_TEXT_MODEL (by default the first of its kind that the service lists), LOAD_TOKENS (length
of an answer, 32), LOAD_KEY (an API key). A run without a limit ends after ten minutes.
"""

import json
import os
import random
import time
from pathlib import Path

from locust import FastHttpUser, constant, events, task

PICTURE = (Path(__file__).parent / "boot.png").read_bytes()
PIXELS = bytes(28 * 28 * 4)
PROMPTS = ("The gate", "A delta network", "Once upon a time", "In the beginning", "def forward(self, x):")
TOKENS = int(os.environ.get("LOAD_TOKENS", "32"))
LONGEST_RUN = 600

FIRST_TOKEN, NEXT_TOKEN = "time to first token", "between tokens"


@events.init.add_listener
def _bound(environment, **_):
    options = environment.parsed_options
    if options is not None and not options.run_time:
        options.run_time = LONGEST_RUN


class _User(FastHttpUser):
    """Somebody with a key and a model."""

    abstract = True
    wait_time = constant(0)
    kind = "image-classification"
    variable = "LOAD_IMAGE_MODEL"

    def on_start(self):
        """Find the model."""
        key = os.environ.get("LOAD_KEY")
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.model = os.environ.get(self.variable) or self._find()

    def _find(self):
        with self.client.get("/v1/models", headers=self.headers, name="/v1/models") as answer:
            listed = answer.json()["data"] if answer.status_code == 200 else []
        for model in listed:
            if model["task"] == self.kind:
                return model["id"]
        raise SystemExit(f"{self.host} serves no model of the task {self.kind}; set {self.variable}")

    def _classify(self):
        path = f"/v1/models/{self.model}/classify"
        self.client.post(path, PICTURE, headers=self.headers | {"Content-Type": "image/png"}, name="classify")

    def _gates(self):
        path = f"/v1/models/{self.model}/gates"
        self.client.post(path, PICTURE, headers=self.headers | {"Content-Type": "image/png"}, name="gates")

    def _infer(self):
        headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": "0"}
        self.client.post(f"/v2/models/{self.model}/infer", PIXELS, headers=self.headers | headers, name="infer, binary")


class Classify(_User):
    """Sends a picture and wants to know what it shows."""

    @task
    def classify(self):
        """Send it."""
        self._classify()


class InferBinary(_User):
    """Sends one row of pixels as bytes, by the Open Inference Protocol."""

    @task
    def infer(self):
        """Send it."""
        self._infer()


class Gates(_User):
    """Sends a picture and wants every gate."""

    @task
    def gates(self):
        """Send it."""
        self._gates()


class Mixed(_User):
    """Classifies most of the time, infers often, looks at gates now and then."""

    @task(6)
    def classify(self):
        """Send a picture."""
        self._classify()

    @task(3)
    def infer(self):
        """Send a tensor."""
        self._infer()

    @task(1)
    def gates(self):
        """Ask for gates."""
        self._gates()


class Completions(_User):
    """Reads a text while it is written."""

    kind = "language-model"
    variable = "LOAD_TEXT_MODEL"

    @task
    def complete(self):
        """Stream one text; the waits for its first token and between tokens are entries of their own."""
        body = {"model": self.model, "prompt": random.choice(PROMPTS), "max_tokens": TOKENS, "temperature": 0.8}
        began = last = time.perf_counter()
        tokens = 0
        with self.client.post(
            "/v1/completions",
            json=body | {"stream": True, "ignore_eos": True},
            headers=self.headers,
            name="completions, streamed",
            stream=True,
            catch_response=True,
        ) as answer:
            if answer.status_code != 200:
                answer.failure(f"status {answer.status_code}")
                return
            event = b""
            while line := answer.stream.readline(b"\n"):
                now = time.perf_counter()
                if not line.startswith(b"data: "):
                    continue
                event = line[6:].strip()
                if event == b"[DONE]":
                    break
                found = json.loads(event)
                if "error" in found:
                    answer.failure(found["error"]["message"])
                    return
                if found["choices"]:
                    self._book(NEXT_TOKEN if tokens else FIRST_TOKEN, now - last)
                    tokens, last = tokens + 1, now
            if event != b"[DONE]" or tokens == 0:
                answer.failure("the stream ended early")
                return
            answer.success()
        self._book("whole text", time.perf_counter() - began)

    def _book(self, name, seconds):
        self.environment.events.request.fire(
            request_type="TEXT", name=name, response_time=seconds * 1000, response_length=0, exception=None, context={}
        )
