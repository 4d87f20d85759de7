"""`--set` changes what it names, and says what it does not understand."""

import pytest

from ddl_model.config import ConfigError, DeltaResNetConfig, ImageClassifierConfig
from ddl_model.training.overrides import override
from ddl_model.training.recipes import fashion_mnist, fashion_mnist_resnet, text_tiny


def test_fields_of_every_kind_can_be_set() -> None:
    config = override(
        fashion_mnist(),
        [
            "batch_size=1_000",
            "optimizer.learning_rate=1e-3",
            "data.mirror=false",
            "precision=bf16-mixed",
            "model.stem_planes=8,12,16",
            "model.residual.gate=two_layer",
            "model.image_channels=3",
            "name=mine",
        ],
    )
    assert (config.batch_size, config.optimizer.learning_rate, config.precision) == (1000, 1e-3, "bf16-mixed")
    assert config.data.mirror is False  # type: ignore[union-attr]
    assert isinstance(config.model, ImageClassifierConfig)
    assert (config.model.stem_planes, config.model.image_channels) == ((8, 12, 16), 3)
    assert (config.model.residual.gate, config.name) == ("two_layer", "mine")
    assert override(config, []) == config


def test_fields_that_must_fit_together_change_at_once() -> None:
    config = override(fashion_mnist(), ["model.width=90", "model.heads=9"])
    assert config.model.width == 90  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=r"model\.heads must be a divisor of width \(90\), got 4"):
        override(fashion_mnist(), ["model.width=90"])
    steps = override(text_tiny(), ["epochs=2", "steps=0"])
    assert (steps.epochs, steps.steps) == (2, 0)


def test_a_group_below_a_group_is_checked_where_it_is_used() -> None:
    config = override(fashion_mnist_resnet(), ["model.residual.rule=additive"])
    assert isinstance(config.model, DeltaResNetConfig)
    with pytest.raises(ConfigError, match=r"model\.direction must be 'pooled_mlp' or 'attention_pooled'"):
        override(fashion_mnist_resnet(), ["model.residual.direction=output", "model.residual.target_input=context"])


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optimizer.lr=1", r"no field optimizer\.lr\. The fields are learning_rate, weight_decay"),
        ("optimizer.learning_rat=1", r"did you mean optimizer\.learning_rate\?"),
        ("optimizer.learning_rate=fast", r"optimizer\.learning_rate must be a number, got fast"),
        ("optimizer.learning_rate=-1", r"optimizer\.learning_rate must be above 0 and finite, got -1\.0"),
        ("optimizer.beta1=1", r"optimizer\.beta1 must be at least 0 and below 1, got 1\.0"),
        ("batch_size=1.5", "batch_size must be a whole number, got 1.5"),
        ("precision=16", "precision must be one of 32-true, bf16-mixed, got 16"),
        ("data.mirror=maybe", r"data\.mirror must be true or false, got maybe"),
        ("model.state.compress=both", r"model\.state\.compress must be one of channel, token, got both"),
        ("accumulation=5", "accumulation must be a divisor of 128 rows, got 5"),
        ("epochs=0", "epochs must be above 0 if steps is 0"),
        ("optimizer=adam", "optimizer is a group; set one of its fields: learning_rate"),
        ("seed.x=1", "seed has no field 'x': it is a single value, 0"),
        ("seed", "--set takes FIELD=VALUE"),
        ("=1", "--set takes FIELD=VALUE"),
    ],
)
def test_what_cannot_be_set_is_named(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(fashion_mnist(), [assignment])


def test_a_value_and_a_field_of_it_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="seed was set to a value already"):
        override(fashion_mnist(), ["seed=1", "seed.x=2"])
