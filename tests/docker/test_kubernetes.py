"""Manifests follow the schemas of Kubernetes, and of KServe as far as they matter here."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service.api.routes import ROUTES


@pytest.fixture(scope="module")
def manifests(root: Path) -> dict[str, dict[str, Any]]:
    text = (root / "docker/kubernetes/service.yaml").read_text("utf-8")
    return {one["kind"]: one for one in yaml.safe_load_all(text)}


def test_every_manifest_follows_its_schema(manifests: dict[str, dict[str, Any]]) -> None:
    assert len(manifests) == 6
    for manifest in manifests.values():
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_the_validator_sees_what_is_wrong(manifests: dict[str, dict[str, Any]]) -> None:
    wrong = manifests["Service"] | {"spec": {"ports": [{"port": "eight thousand"}]}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_everything_means_the_same_pods(manifests: dict[str, dict[str, Any]]) -> None:
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert manifests["Service"]["spec"]["selector"] == labels
    assert manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    target = manifests["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert target["name"] == manifests["Deployment"]["metadata"]["name"]


def test_probes_ask_public_paths_and_the_end_is_given_its_time(manifests: dict[str, dict[str, Any]]) -> None:
    public = {route.path for route in ROUTES if route.scope == "public"}
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in public
    delay = float(next(one["value"] for one in container["env"] if one["name"] == "DDL_DRAIN_DELAY_SECONDS"))
    readiness = container["readinessProbe"]
    assert delay >= readiness["periodSeconds"] * readiness["failureThreshold"]
    assert pod["terminationGracePeriodSeconds"] > delay + 20


def test_kserve_serves_bundles_by_its_second_protocol(root: Path) -> None:
    runtime, service = yaml.safe_load_all((root / "docker/kubernetes/kserve.yaml").read_text("utf-8"))
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    (form,) = runtime["spec"]["supportedModelFormats"]
    assert model["modelFormat"] == {"name": form["name"], "version": form["version"]}
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    pod = {"containers": runtime["spec"]["containers"], "volumes": runtime["spec"]["volumes"]}
    # KServe's own schemas are not at hand, but a runtime's containers are those of a pod.
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod}
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
