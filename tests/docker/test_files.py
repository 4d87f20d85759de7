"""Compose file, dashboards, alerts and manifests hold together, and name nothing that is not there."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings, load_settings
from tests import documents

METRIC = re.compile(r"\bddl_[a-z0-9_]+")
# Prometheus' own, its client's and the functions of its language need no definition of ours.
SUFFIXES = ("_bucket", "_sum", "_count")


@pytest.fixture(scope="module")
def metrics() -> set[str]:
    """Return the name of every series that the service can have."""
    found = set(re.findall(r"^\| `([a-z0-9_]+)` \|", documents.metrics(), re.MULTILINE))
    return found | {name + suffix for name in found for suffix in SUFFIXES}


def panels(root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for file in sorted((root / "docker/grafana/dashboards").glob("*.json")):
        for panel in json.loads(file.read_text("utf-8"))["panels"]:
            yield file.stem, panel


def test_panels_ask_for_metrics_that_exist(root: Path, metrics: set[str]) -> None:
    seen = set()
    for name, panel in panels(root):
        for target in panel["targets"]:
            named = set(METRIC.findall(target["expr"]))
            assert named or "process_" in target["expr"], (name, panel["title"])
            assert named <= metrics, (name, panel["title"])
            seen |= named
    assert len(seen) > 20


def test_panels_use_the_provisioned_source_and_do_not_overlap(root: Path) -> None:
    folder = root / "docker/grafana/provisioning/datasources"
    (source,) = yaml.safe_load((folder / "prometheus.yml").read_text("utf-8"))["datasources"]
    places = [
        (name, panel["gridPos"]["x"], panel["gridPos"]["y"])
        for name, panel in panels(root)
        if panel["datasource"]["uid"] == source["uid"]
    ]
    assert len(places) == len(set(places)) == len(list(panels(root)))


@pytest.mark.parametrize(
    "file", ["docker/prometheus/alerts.yml", "docker/kubernetes/service.yaml", "docker/kubernetes/adapter.yaml"]
)
def test_rules_and_scaling_read_metrics_that_exist(root: Path, metrics: set[str], file: str) -> None:
    named = set(METRIC.findall((root / file).read_text("utf-8")))
    assert named
    assert named <= metrics


def test_every_alert_is_tested_and_explained(root: Path) -> None:
    rules = yaml.safe_load((root / "docker/prometheus/alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
    names = {rule["alert"] for rule in rules}
    tests = yaml.safe_load((root / "tests/docker/alerts.test.yml").read_text("utf-8"))["tests"]
    assert {one["alertname"] for test in tests for one in test["alert_rule_test"] if one.get("exp_alerts")} == names
    text = (root / "docs/deployment.md").read_text("utf-8")
    assert [name for name in names if f"| `{name}` |" not in text] == []


def test_the_example_documents_every_variable_with_its_default(root: Path) -> None:
    files = [root / "docker-compose.yml", root / "docker/compose.keys.yml"]
    text = "\n".join(file.read_text("utf-8") for file in files)
    read = dict(re.findall(r"\$\{(\w+)(?::-([^}]*))?", text))
    lines = (root / ".env.example").read_text("utf-8").splitlines()
    documented = dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))
    assert documented == read


def test_containers_are_given_settings_that_exist(root: Path) -> None:
    known = {f"DDL_{name.upper()}" for name in Settings.model_fields}
    compose = yaml.safe_load((root / "docker-compose.yml").read_text("utf-8"))
    given = set(compose["services"]["service"]["environment"])
    given |= set(re.findall(r"name: (DDL_\w+)", (root / "docker/kubernetes/service.yaml").read_text("utf-8")))
    given |= set(re.findall(r"name: (DDL_\w+)", (root / "docker/kubernetes/kserve.yaml").read_text("utf-8")))
    given |= set(re.findall(r"\b(DDL_\w+)=", (root / "docker/service.Dockerfile").read_text("utf-8")))
    assert given - known == set()


def test_the_service_starts_with_the_defaults(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compose = yaml.safe_load((root / "docker-compose.yml").read_text("utf-8"))
    for name, value in compose["services"]["service"]["environment"].items():
        monkeypatch.setenv(name, re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value)))
    settings = load_settings([])
    assert str(settings.usage_file) == "/state/usage.json"
    assert settings.control == "poll"


def test_nothing_listens_beyond_this_host_or_runs_with_powers(root: Path) -> None:
    services = yaml.safe_load((root / "docker-compose.yml").read_text("utf-8"))["services"]
    assert set(services) == {"service", "service-gpu", "prometheus", "grafana", "load"}
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
        assert service["cap_drop"] == ["ALL"], name
        assert service["read_only"] is True, name
        assert "mem_limit" in service, name
