"""The language model behind the interface of transformers."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Int64
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import GENERATION_CONFIG_NAME

from ddl_model.checkpoint import WEIGHTS_NAME, CheckpointError, find_checkpoint, read_checkpoint
from ddl_model.hf.cache import DeltaCache
from ddl_model.hf.config import DeepDeltaConfig, local_folder
from ddl_model.language_model import LanguageModel
from ddl_model.residual import DeltaResidual

_PREFIX = "model."


class DeepDeltaForCausalLM(PreTrainedModel, GenerationMixin):
    """A `LanguageModel`, found at `model`, behind the interface of transformers."""

    config_class = DeepDeltaConfig
    base_model_prefix = "model"
    _input_embed_layer = "embedding"
    _no_split_modules: ClassVar[list[str]] = ["LanguageModel"]  # the head is the embedding: one device for both
    _is_stateful = True  # ways to generate that take tokens back say that they cannot

    def __init__(self, config: DeepDeltaConfig) -> None:
        """Make a model with random weights; seed torch for reproducible ones."""
        super().__init__(config)
        self.model = LanguageModel(config.language_model_config())
        self.register_load_state_dict_pre_hook(_add_prefix)
        self.post_init()

    def forward(
        self,
        input_ids: Int64[Tensor, "b t"],
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        labels: Int64[Tensor, "b t"] | None = None,
        use_cache: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Int64[Tensor, " c"] = 0,
        **others: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Return logits, the loss where there are `labels`, and the `DeltaCache` where one is given or asked for.

        `attention_mask` covers the columns of the cache too. The loss is the cross entropy of each position's logits
        with the label after it, where that is not -100: its mean, or its sum over `num_items_in_batch`.
        `logits_to_keep` chooses columns: the last so many, or those with the given numbers; 0 keeps all.

        Raises:
            ValueError: as `LanguageModel.forward`; the cache is of another kind; the mask does not cover the cache;
                there are labels for logits that are not kept; or another argument that models of transformers may
                have (`output_hidden_states`, `position_ids`, ...) is more than None or False.
        """
        asked = {name: getattr(self.config, name) for name in ("output_attentions", "output_hidden_states")}
        for name, value in (asked | others).items():
            if value is not None and value is not False:
                raise ValueError(f"{name} is not supported; an Observer given to `.model` shows what goes on inside")
        keep = _columns(logits_to_keep, input_ids)
        if labels is not None and keep is not None:
            raise ValueError("labels need the logits of every column: leave out logits_to_keep")
        if past_key_values is None and use_cache:
            past_key_values = DeltaCache()
        if past_key_values is None:
            logits = self.model(input_ids, attention_mask, keep=keep)
        else:
            logits = self._step(input_ids, attention_mask, past_key_values, keep)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config.vocab_size, num_items_in_batch=num_items_in_batch)
        output = CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)
        as_tuple = not self.config.return_dict if return_dict is None else not return_dict
        return output.to_tuple() if as_tuple else output

    def _step(self, input_ids: Tensor, attention_mask: Tensor | None, cache: Cache, keep: Tensor | None) -> Tensor:
        if not isinstance(cache, DeltaCache):
            raise ValueError(f"past_key_values must be a ddl_model.hf.DeltaCache, got a {type(cache).__name__}")
        seen, columns = cache.get_seq_length(), input_ids.shape[1]
        if attention_mask is not None:
            if attention_mask.shape[-1] != seen + columns:
                raise ValueError(
                    f"attention_mask has {attention_mask.shape[-1]} columns, "
                    f"the cache and the input together {seen} + {columns}"
                )
            attention_mask = attention_mask[:, seen:]
        logits: Tensor
        logits, decode = self.model.step(input_ids, cache.decode, attention_mask, keep=keep)
        cache.put(decode, columns)
        return logits

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the arguments of `forward`, without those that early releases of transformers 5 add."""
        inputs = super().prepare_inputs_for_generation(*args, **kwargs)
        return {name: value for name, value in inputs.items() if name not in ("cache_position", "inputs_embeds")}

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """Leave the making of the cache to `forward`."""
        return False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Draw what `LanguageModel` has not drawn: added embeddings, and constants that checkpoints do not hold."""
        config = self.model.config
        if isinstance(module, nn.Embedding) and module is not self.model.embedding:
            nn.init.normal_(module.weight, std=config.embedding_std)
        if isinstance(module, DeltaResidual) and module.target is None:
            module.target_weight.zero_()
            module.target_bias.fill_(config.residual.target_value)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Change the vocabulary; see the base class."""
        embedding: nn.Embedding = super().resize_token_embeddings(*args, **kwargs)
        self.model.config = replace(self.model.config, vocab_size=embedding.num_embeddings)
        return embedding

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *model_args: Any,
        config: PreTrainedConfig | str | Path | None = None,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Load a checkpoint folder, ours or the authors', or the newest checkpoint of a run folder, in eval mode.

        Returns the model, or with `output_loading_info` the model and what the base class tells of the loading. Other
        arguments (`dtype`, `device_map`, ...) are those of the base class.

        Raises:
            CheckpointError: the folder holds no checkpoint, or its weights do not fit the config.
            ConfigError: it is the checkpoint of another kind of model.
        """
        folder = find_checkpoint(local_folder(pretrained_model_name_or_path) / (kwargs.pop("subfolder", None) or ""))
        if (folder / GENERATION_CONFIG_NAME).is_file():
            kwargs.setdefault("generation_config", GenerationConfig.from_pretrained(folder))
        # Copies, because what was read are views into the file: unaligned, and changing when it is overwritten.
        weights = {
            _PREFIX + name: tensor.clone() for name, tensor in read_checkpoint(folder, optimizer=False).weights.items()
        }
        kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # to be told, and then to refuse
        config = folder if config is None else config
        model, info = super().from_pretrained(None, *model_args, config=config, state_dict=weights, **kwargs)
        for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if info[problem]:
                raise CheckpointError(f"{folder}: the weights do not fit the config: {problem} {sorted(info[problem])}")
        model.name_or_path = model.config.name_or_path = str(folder)
        return (model, info) if output_loading_info else model

    def save_pretrained(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write a folder that both transformers and `ddl_model.load_checkpoint` read.

        Raises:
            CheckpointError: `max_shard_size` or `variant` has kept the weights out of the one file that we read.
        """
        if getattr(self, "_hf_peft_config_loaded", False):  # then only adapters are saved, in a file of their own
            super().save_pretrained(save_directory, is_main_process, state_dict, **kwargs)
            return
        weights = self.state_dict() if state_dict is None else state_dict
        ours = {name.removeprefix(_PREFIX): tensor for name, tensor in weights.items()}
        super().save_pretrained(save_directory, is_main_process, ours, **kwargs)
        if is_main_process and not Path(save_directory, WEIGHTS_NAME).is_file():
            raise CheckpointError(f"{save_directory} has no {WEIGHTS_NAME}: leave out max_shard_size and variant")


def _columns(logits_to_keep: int | Tensor, input_ids: Tensor) -> Tensor | None:
    """Return the numbers of the columns whose logits are wanted, or None for all."""
    if not isinstance(logits_to_keep, int):
        return logits_to_keep % input_ids.shape[1]
    return torch.arange(input_ids.shape[1], device=input_ids.device)[-logits_to_keep:] if logits_to_keep else None


def _add_prefix(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Let `load_state_dict` take parameters by our names, as `save_pretrained` writes them."""
    for name in [name for name in state_dict if not name.startswith(prefix + _PREFIX)]:
        state_dict[prefix + _PREFIX + name.removeprefix(prefix)] = state_dict.pop(name)
