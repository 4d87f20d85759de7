"""Configurations are valid once they exist, and say what is wrong with them before."""

import json
from typing import Any

import pytest

from ddl_model import ConfigError, ImageClassifierConfig, ResidualConfig, StateConfig

LABELS = ("a", "b")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rule": "highway"}, "rule must be one of 'delta', 'write_only', 'additive', got 'highway'"),
        ({"gate_hidden_width": 0}, "gate_hidden_width must be at least 1, got 0"),
        ({"direction_eps": 0.0}, "direction_eps must be above 0"),
        ({"target_input": "state"}, "target_input must be one of"),
        ({"gate_init": 2.0}, "gate_init must be strictly between 0 and 2, got 2.0"),
        ({"gate_init": "1"}, "gate_init must be a number, got '1'"),
    ],
)
def test_residual_config_names_the_bad_field(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        ResidualConfig(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"value_channels": 0}, "value_channels must be between 1 and 64, got 0"),
        ({"value_channels": 2.0}, "value_channels must be a whole number, got 2.0"),
        ({"compress": "depth"}, "compress must be one of 'channel', 'token', got 'depth'"),
        ({"expand_kernel": 0}, "expand_kernel must be at least 1, got 0"),
        ({"shared_compressor": 1}, "shared_compressor must be true or false, got 1"),
    ],
)
def test_state_config_names_the_bad_field(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        StateConfig(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"labels": ("a",)}, "labels must be at least 2 different names"),
        ({"labels": ("a", "a")}, "labels must be at least 2 different names"),
        ({"heads": 5}, r"heads must be a divisor of width \(64\), got 5"),
        ({"image_channels": 2}, "image_channels must be one of 1, 3, got 2"),
        ({"image_height": 3}, "image_height must be at least the stem's stride, 4, got 3"),
        ({"stem_planes": ()}, "stem_planes must be a non-empty tuple"),
        ({"layers": 0}, "layers must be at least 1"),
        ({"pixel_std": 0.0}, "pixel_std must be above 0"),
        ({"background": "grey"}, "background must be one of"),
    ],
)
def test_classifier_config_names_the_bad_field(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ImageClassifierConfig(**{"labels": LABELS, **values})


def test_it_survives_json() -> None:
    config = ImageClassifierConfig(labels=LABELS, stem_planes=(3, 4, 5), state=StateConfig(value_channels=2))
    assert ImageClassifierConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_unknown_fields_are_errors() -> None:
    with pytest.raises(ConfigError, match="ImageClassifierConfig has no field 'depth'; it has labels"):
        ImageClassifierConfig.from_dict({"labels": LABELS, "depth": 3})
    with pytest.raises(ConfigError, match="ResidualConfig has no field 'gates'"):
        ImageClassifierConfig.from_dict({"labels": LABELS, "residual": {"gates": 1}})


@pytest.mark.parametrize(
    ("height", "width", "planes", "grid"), [(28, 28, (8, 8), (7, 7)), (18, 15, (8, 8), (5, 4)), (9, 8, (8,), (5, 4))]
)
def test_grid_is_what_the_stem_makes(height: int, width: int, planes: tuple[int, ...], grid: tuple[int, int]) -> None:
    config = ImageClassifierConfig(labels=LABELS, image_height=height, image_width=width, stem_planes=planes)
    assert config.grid == grid
