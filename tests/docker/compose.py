"""docker-compose.yml for real: `make compose-test`. Skips with the reason where no engine can be had.

The tests are one story, told in this order: each begins with the stack as the one before it has left it.
"""

import gzip
import http.client
import json
import os
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docker.callers import Callers
from tests.docker.engine import NoEngine, engine
from tests.docker.stack import Stack, default, wait_for

CLASSIFY = "/v1/models/fashion-mnist/classify"
GATES = "/v1/models/fashion-mnist/gates"
COMPLETIONS = "/v1/completions"
STORY = {"model": "words", "prompt": "a delta rule", "max_tokens": 200, "ignore_eos": True, "stream": True}
PANELS_FILE = "COMPOSE_TEST_PANELS"
"""Variable with a file that gets every panel's answer, for `tests/docker/plot.py`."""

DASHBOARDS = {f"Delta networks: {name}" for name in ("serving", "generation", "gates")}
MAY_BE_EMPTY = {"Refusals", "Looks that failed"}
"""Panels of what has not happened."""


@pytest.fixture(scope="module")
def stack(root: Path, text_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    try:
        with engine(default(root, "BASE_IMAGE"), default(root, "PROMETHEUS_IMAGE")) as found:
            stack = Stack(found, root, tmp_path_factory.mktemp("compose"))
            stack.folder.parent.chmod(0o755)
            stack.add_language_model("words", text_bundle)
            stack.build("service", "load")
            if found.is_private:
                standins = root / "tests/docker/standins"
                found.docker(
                    "build", "-q", "--network", "host", "-t", default(root, "GRAFANA_IMAGE"), "-f",
                    str(standins / "grafana.Dockerfile"), str(standins),
                )  # fmt: skip
            try:
                stack.up()
                yield stack
            finally:
                stack.compose("--profile", "*", "down", "-v", "--remove-orphans")
    except NoEngine as error:
        print(f"\nTHE COMPOSE FILE WAS NOT TESTED: {error}")
        pytest.skip(f"the compose file was not tested: {error}")


@pytest.fixture(scope="module")
def picture(root: Path) -> bytes:
    return (root / "docs/images/ankle-boot.png").read_bytes()


def test_everything_is_healthy(stack: Stack) -> None:
    for service in ("service", "prometheus", "grafana"):
        assert stack.inspect(service, "{{.State.Health.Status}}") == "healthy"


def test_it_predicts_and_shows_gates(stack: Stack, picture: bytes) -> None:
    assert stack.ask(CLASSIFY, picture)["predictions"][0]["label"] == "Ankle boot"
    beta = stack.ask(GATES, picture)["results"][0]["tensors"]["beta"]
    assert beta["shape"] == [6, 49]
    models = stack.ask("/v1/models")["models"]
    assert {model["name"] for model in models} == {folder.name for folder in stack.models.iterdir()}
    assert all("kernel" in json.dumps(model) for model in models)


def test_the_container_is_locked_up(stack: Stack) -> None:
    inside = (
        "import os, pathlib, shutil, importlib.util as u; p = pathlib.Path('/srv/x');\n"
        "try: p.touch(); wrote = True\n"
        "except OSError: wrote = False\n"
        "group = '/sys/fs/cgroup/memory'\n"
        "limit = [q for q in (group + '.max', group + '/memory.limit_in_bytes') if os.path.exists(q)]\n"
        "caps = [l.split()[1] for l in open('/proc/self/status') if l.startswith('CapEff')]\n"
        "print(os.getuid(), wrote, shutil.which('g++'), u.find_spec('torch'), caps[0], open(limit[0]).read().strip())"
    )
    words = stack.compose("exec", "-T", "service", "python3", "-c", inside).split()
    assert words == ["10001", "False", "None", "None", "0000000000000000", str(1 << 30)]


def test_prometheus_scrapes_it(stack: Stack, picture: bytes) -> None:
    count = f'sum(ddl_http_requests_total{{route="{CLASSIFY.replace("fashion-mnist", "{name}")}",status="200"}})'
    for _ in range(5):
        stack.ask(CLASSIFY, picture)
    wait_for("prometheus sees the service", lambda: [one["value"][1] for one in stack.prometheus("up")] == ["1"])
    wait_for("and its requests", lambda: sum(float(one["value"][1]) for one in stack.prometheus(count)) >= 6)


def test_the_rules_do_what_their_tests_say(stack: Stack) -> None:
    if stack.engine.promtool is None:
        pytest.skip("no promtool")
    folder = stack.root / "docker/prometheus"
    for words in (
        ("check", "config", "prometheus.yml"),
        ("check", "config", "--syntax-only", "prometheus.keys.yml"),
        ("test", "rules", str(stack.root / "tests/docker/alerts.test.yml")),
    ):
        result = subprocess.run([stack.engine.promtool, *words], cwd=folder, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr


def test_every_panel_has_an_answer_with_traffic(stack: Stack, picture: bytes) -> None:
    if not stack.engine.is_private:
        pytest.skip("the panels are asked by the stand-in alone")
    port = stack.ports["DDL_PORT"]
    lookers = Callers(port, CLASSIFY, picture, "image/png", 4)
    # More than there are slots, so that somebody waits for one.
    readers = Callers(port, COMPLETIONS, json.dumps(STORY).encode(), "application/json", 12)
    for _ in range(30):
        stack.ask(GATES, picture)
        _hang_up_early(port)
        time.sleep(0.8)
    assert readers.finish(0).failed == lookers.finish(0).failed == []
    with urllib.request.urlopen(f"{stack.grafana}/panels?seconds=60", timeout=60) as answer:
        panels: list[dict[str, Any]] = json.load(answer)
    assert {one["dashboard"] for one in panels} == DASHBOARDS
    assert [one for one in panels if one["answer"]["status"] != "success"] == []
    found = {(one["panel"], one["legend"]): one["answer"]["data"]["result"] for one in panels}
    shown = {panel for (panel, _), result in found.items() if result}
    assert {panel for panel, _ in found} - shown <= MAY_BE_EMPTY
    ends = found["Answers per second by outcome", "{{model}} {{outcome}}"]
    (cancelled,) = (one["values"] for one in ends if one["metric"]["outcome"] == "cancelled")
    assert max(float(value) for _, value in cancelled) > 0
    if os.environ.get(PANELS_FILE):
        Path(os.environ[PANELS_FILE]).write_bytes(gzip.compress(json.dumps(panels).encode()))


def test_the_load_generator_runs_against_it(stack: Stack) -> None:
    run = (
        "--host",
        "http://service:8000",
        "--headless",
        "--users",
        "2",
        "--run-time",
        "5s",
        "--only-summary",
        "Classify",
    )
    stack.compose("--profile", "load", "run", "--rm", "--no-deps", "load", *run)


def test_a_new_version_is_served_and_taken_back(stack: Stack, picture: bytes) -> None:
    new, old = stack.models / "fashion-mnist/2", stack.models / "fashion-mnist/1"
    subprocess.run(["cp", "-r", str(old), str(new)], check=True)
    wait_for("version 2 answers", lambda: stack.ask(CLASSIFY, picture)["version"] == "2")
    subprocess.run(["rm", "-r", str(new)], check=True)
    wait_for("version 1 answers", lambda: stack.ask(CLASSIFY, picture)["version"] == "1")


def test_it_comes_back_after_kill_9(stack: Stack, picture: bytes) -> None:
    before = int(stack.inspect("service", "{{.RestartCount}}"))
    kill = (
        "import os; me = os.getpid()\n"
        "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "    words = open(f'/proc/{pid}/cmdline').read().split(chr(0))\n"
        "    if int(pid) not in (1, me) and words[1:3] == ['-m', 'service']: os.kill(int(pid), 9)"
    )
    stack.compose("exec", "-T", "service", "python3", "-c", kill)
    wait_for("a restart", lambda: int(stack.inspect("service", "{{.RestartCount}}")) == before + 1)
    wait_for("ready again", lambda: stack.status("/v2/health/ready") == 200)
    assert stack.ask(CLASSIFY, picture)["predictions"][0]["label"] == "Ankle boot"


def test_sigterm_fails_no_request_under_load(stack: Stack, picture: bytes) -> None:
    callers = Callers(stack.ports["DDL_PORT"], CLASSIFY, picture, "image/png", 16)
    time.sleep(2)
    stack.compose("stop", "service")
    tally = callers.finish(20)
    assert tally.failed == []
    assert tally.answered > 100
    assert stack.inspect("service", "{{.State.ExitCode}}") == "0"


def test_an_alert_fires_while_it_is_down(stack: Stack) -> None:
    firing = 'ALERTS{alertname="ServiceDown",alertstate="firing"}'
    wait_for("ServiceDown fires", lambda: stack.prometheus(firing))


def test_data_outlives_the_containers(stack: Stack, picture: bytes) -> None:
    seen = float(stack.prometheus('count_over_time(up{job="deep-delta"}[1h])')[0]["value"][1])
    stack.compose("down")
    stack.up()
    usage = stack.compose("exec", "-T", "service", "cat", "/state/usage.json")
    assert max(int(number) for number in _numbers(json.loads(usage))) > 100
    wait_for(
        "what Prometheus knew",
        lambda: (
            float(
                (stack.prometheus('max(count_over_time(up{job="deep-delta"}[1h]))') or [{"value": [0, "0"]}])[0][
                    "value"
                ][1]
            )
            >= seen
        ),
    )
    assert stack.ask(CLASSIFY, picture)["version"] == "1"


def test_with_keys_nobody_comes_in_without(stack: Stack, root: Path, picture: bytes) -> None:
    keys, scraper = stack.folder / "keys.json", stack.folder / "prometheus.key"
    python = [sys.executable, "-m", "service.security"]
    made = {}
    for name, scopes in (("anna", "infer"), ("prometheus", "metrics")):
        words = [*python, "create", name, "--scopes", scopes]
        printed = subprocess.run(
            words, cwd=root, env=os.environ | {"DDL_API_KEYS": str(keys)}, capture_output=True, text=True, check=True
        ).stdout
        made[name] = next(word for word in printed.split() if word.startswith("ddl_"))
    scraper.write_text(made["prometheus"])
    for file in (keys, scraper):
        file.chmod(file.stat().st_mode | stat.S_IROTH)
    stack.engine.environment |= {"API_KEYS_FILE": str(keys), "PROMETHEUS_KEY_FILE": str(scraper)}
    stack.files = [root / "docker-compose.yml", root / "docker/compose.keys.yml"]
    stack.up()
    with pytest.raises(urllib.error.HTTPError, match="401"):
        stack.ask(CLASSIFY, picture)
    assert stack.ask(CLASSIFY, picture, key=made["anna"])["version"] == "1"
    wait_for("Prometheus has its key", lambda: [one["value"][1] for one in stack.prometheus("up")] == ["1"])


def test_down_leaves_nothing(stack: Stack) -> None:
    stack.compose("--profile", "*", "down", "-v", "--remove-orphans")
    label = "label=com.docker.compose.project=deep-delta-test"
    for words in (("ps", "-aq"), ("volume", "ls", "-q"), ("network", "ls", "-q")):
        assert stack.engine.docker(*words, "--filter", label).strip() == ""
    assert stack.status("/v2/health/live") == 0


def _hang_up_early(port: int) -> None:
    """Read the beginning of a streamed text and go."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", COMPLETIONS, json.dumps(STORY), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.readline()
    answer.close()
    connection.close()


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _numbers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner)
    elif isinstance(value, int):
        yield value
