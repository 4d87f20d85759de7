"""What can be said of the cluster's application without a cluster; `make cluster` starts one."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from service.cluster import Cluster, application
from service.settings import InvalidSettings, Settings


def test_arguments_become_the_deployment(root: Path) -> None:
    bound = application({"repository": "models", "replicas": 2, "cpus": 0.5, "ongoing": 4, "grow_seconds": 9})
    deployment = bound._bound_deployment
    assert deployment.name == "deep-delta"
    assert deployment.ray_actor_options == {"num_cpus": 0.5, "num_gpus": 0.0}
    autoscaling = deployment._deployment_config.autoscaling_config
    assert autoscaling is not None
    assert (autoscaling.min_replicas, autoscaling.max_replicas, autoscaling.target_ongoing_requests) == (2, 8, 4)
    assert (autoscaling.upscale_delay_s, autoscaling.downscale_delay_s) == (9, 600)


def test_what_is_no_argument_is_named() -> None:
    with pytest.raises(InvalidSettings, match="repositry"):
        application({"repositry": "models"})
    with pytest.raises(InvalidSettings, match="max-rows"):
        application({"max_rows": "many"})
    with pytest.raises(ValidationError, match="replicas"):
        application({"replicas": 0})


def test_names_of_both_kinds_differ() -> None:
    assert not Cluster.model_fields.keys() & Settings.model_fields.keys()


def test_the_file_to_deploy_is_one_that_can_be_deployed(root: Path) -> None:
    (one,) = yaml.safe_load((root / "docker/cluster/cluster.yaml").read_text("utf-8"))["applications"]
    assert one["import_path"] == "service.cluster:application"
    application(one["args"])
