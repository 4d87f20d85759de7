"""What transformers knows of a checkpoint: our `config.json`, or that of the paper's authors."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from ddl_model.checkpoint import MODEL_TYPE, SCHEMA, CheckpointError, describe, read_checkpoint
from ddl_model.config import ConfigError, LanguageModelConfig


class DeepDeltaConfig(PreTrainedConfig):
    """What `config.json` says of a checkpoint of ours, under the same names: `schema`, `model`, `config`.

    The sizes that transformers asks every model for are read from `config`.
    """

    model_type = MODEL_TYPE

    def __init__(
        self,
        schema: str = SCHEMA,
        model: str = "language_model",
        config: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Check and keep the description; no `config` means the default `LanguageModelConfig`.

        Raises:
            ConfigError: it describes another kind of model, or a field has a value that is not allowed.
        """
        if schema != SCHEMA:
            raise ConfigError(f"schema must be {SCHEMA!r}, got {schema!r}")
        if model != "language_model":
            raise ConfigError(
                f"transformers gets our language models only, and the model here is {model!r}: "
                "load it with ddl_model.load_checkpoint"
            )
        self.schema = schema
        self.model = model
        self.config = LanguageModelConfig.from_dict(config or {}).to_dict()
        super().__init__(**kwargs)

    # The base class makes dataclasses of its subclasses, whose comparison would overlook attributes that are no fields.
    __eq__ = PreTrainedConfig.__eq__

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Any:
        """Return the description of the checkpoint in a folder, and the arguments that are left.

        The authors' `config.json` is the same for all their variants, so the weights beside it are read too.

        Raises:
            CheckpointError: it is neither a checkpoint of ours nor one of theirs.
        """
        described, left = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if "schema" not in described:
            described = describe(read_checkpoint(local_folder(pretrained_model_name_or_path), optimizer=False).config)
        return described, left

    def language_model_config(self) -> LanguageModelConfig:
        """Return the configuration that `LanguageModel` takes."""
        return LanguageModelConfig.from_dict(self.config)

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return int(self.config["vocab_size"])

    @vocab_size.setter
    def vocab_size(self, value: int) -> None:
        self.config["vocab_size"] = value

    @property
    def hidden_size(self) -> int:
        """Our `width`."""
        return int(self.config["width"])

    @property
    def num_hidden_layers(self) -> int:
        """Our `layers`."""
        return int(self.config["layers"])

    @property
    def num_attention_heads(self) -> int:
        """Our `attention.heads`."""
        return int(self.config["attention"]["heads"])


class AuthorsConfig(PreTrainedConfig):
    """Makes the Auto classes read the `config.json` of the paper's authors as a `DeepDeltaConfig`."""

    model_type = "nanogpt-pro"

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Return our description of the checkpoint; the Auto classes say where its folder is."""
        return DeepDeltaConfig.from_pretrained(kwargs["name_or_path"], **kwargs)


def local_folder(name_or_path: str | Path) -> Path:
    """Return the folder of that name.

    Raises:
        CheckpointError: there is none on this machine.
    """
    folder = Path(name_or_path)
    if not folder.is_dir():
        raise CheckpointError(f"{name_or_path} is no folder here: download the repository first, then give its folder")
    return folder
