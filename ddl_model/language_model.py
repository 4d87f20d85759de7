"""From token ids to logits over delta blocks; full forward, prefill and decode are one path."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ddl_model.block import Block, SublayerStep, run_blocks
from ddl_model.causal_attention import CausalSelfAttention
from ddl_model.compress import Reading, make_compressor
from ddl_model.compress_op import Compressed
from ddl_model.config import LanguageModelConfig
from ddl_model.expand import make_expansion
from ddl_model.feedforward import SwiGLU
from ddl_model.observe import Observer, site_names
from ddl_model.residual import DeltaResidual
from ddl_model.same_start import delta_twin, start_as
from ddl_model.token_stream import DecodeCache, TokenStream, whole_pass


class LanguageModel(nn.Module):
    """A decoder-only transformer whose residuals are rewrites: embed, expand, blocks, compress, norm, tied head."""

    def __init__(self, config: LanguageModelConfig) -> None:
        """Make a model with random weights; seed torch for reproducible ones."""
        super().__init__()
        # Made first, so that it draws what the delta network of the same seed draws.
        twin_config = delta_twin(config)
        twin = None if twin_config is None else type(self)(twin_config)
        self.config = config
        width, state = config.width, config.state
        self.embedding = nn.Embedding(config.vocab_size, width)
        self.expand = make_expansion(width, state)
        self.blocks = nn.ModuleList(self._block(layer) for layer in range(config.layers))
        self.final_compress = make_compressor(width, state)
        self.final_norm = nn.RMSNorm(width, eps=config.norm_eps)
        self._initialise()
        if twin is not None:
            start_as(self, twin)

    @property
    def sites(self) -> list[str]:
        """Names of the rewrites in order; an additive network has none."""
        return site_names(self.config.layers) if self.config.residual.rule != "additive" else []

    def forward(
        self,
        input_ids: Int64[Tensor, "b t"],
        attention_mask: Tensor | None = None,
        observer: Observer | None = None,
        keep: Int64[Tensor, " c"] | None = None,
    ) -> Float[Tensor, "b c vocab"]:
        """Return the logits of every column, or of those in `keep` alone: the head sees no others.

        `attention_mask` (b, t) is nonzero where there is a token; a row's tokens are adjacent, with padding on either
        side or both. Logits at padding are meaningless.

        Raises:
            ValueError: an id is outside the vocabulary, or a row's tokens are not adjacent.
        """
        if attention_mask is None:
            hidden = self.hidden_state(input_ids, whole_pass(input_ids), observer)[1].context
            return self.logits(hidden if keep is None else hidden[:, keep])
        return self._run_padded(input_ids, attention_mask, None, observer, keep, remember=False)[0]

    def step(
        self,
        input_ids: Int64[Tensor, "b t"],
        cache: DecodeCache | None = None,
        attention_mask: Tensor | None = None,
        observer: Observer | None = None,
        keep: Int64[Tensor, " c"] | None = None,
    ) -> tuple[Float[Tensor, "b c vocab"], DecodeCache]:
        """Continue `cache` by the given tokens (prefill, a chunk of it, or one token each); return a new cache.

        The old cache stays valid. Masks and `keep` are as in `forward` and are about these tokens alone.

        Raises:
            ValueError: as `forward`; or the cache has another number of rows.
        """
        if cache is not None and len(cache.lengths) != len(input_ids):
            raise ValueError(f"the cache has {len(cache.lengths)} rows, the input has {len(input_ids)}")
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self._run_padded(input_ids, mask, cache, observer, keep, remember=True)

    def hidden_state(
        self, input_ids: Int64[Tensor, "b t"], stream: TokenStream, observer: Observer | None = None
    ) -> tuple[Float[Tensor, "b t d dv"], Compressed]:
        """Return the state after the last rewrite, and what the head reads of it: compressed, and after its norm."""
        outside = (input_ids < 0) | (input_ids >= self.config.vocab_size)
        if not torch.compiler.is_compiling() and bool(outside.any()):
            bad = int(input_ids[outside][0])
            raise ValueError(f"token id {bad} is outside the vocabulary of {self.config.vocab_size}")
        state: Tensor = self.expand(self.embedding(input_ids), stream)
        last = Reading(self.final_compress, self.final_norm, stream, "final.compress")
        return run_blocks(self.blocks, state, last, observer, stream)

    def logits(self, hidden: Float[Tensor, "*n d"]) -> Float[Tensor, "*n vocab"]:
        """Return the logits of what the head reads, after its norm: tied head, scale."""
        return nn.functional.linear(hidden, self.embedding.weight) * self.config.logits_scale

    def _run_padded(
        self,
        input_ids: Tensor,
        mask: Tensor,
        cache: DecodeCache | None,
        observer: Observer | None,
        keep: Tensor | None,
        *,
        remember: bool,
    ) -> tuple[Tensor, DecodeCache]:
        columns = input_ids.shape[1]
        first, counts = _span(mask, input_ids.shape)
        # Move each row's tokens to its first columns: from there on padding is only behind them.
        every = torch.arange(columns, device=input_ids.device)
        stream = TokenStream(input_ids, counts, cache, remember=remember)
        moved = input_ids.gather(1, (every + first.unsqueeze(-1)) % max(1, columns))
        hidden = self.hidden_state(moved, stream, observer)[1].context
        # Back to where they came from, before the head: it is the widest thing here.
        places = ((every if keep is None else keep) - first.unsqueeze(-1)) % max(1, columns)
        kept = hidden.gather(1, places.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
        return self.logits(kept), stream.cache(input_ids.device)

    def _block(self, layer: int) -> Block:
        config = self.config
        processes = {
            "attn": CausalSelfAttention(config.width, config.attention, f"{layer}.attn"),
            "mlp": SwiGLU(config.width, config.feedforward_width),
        }
        attn, mlp = (
            SublayerStep(
                processes[sublayer], config.width, config.residual, config.state, layer, sublayer, config.norm_eps
            )
            for sublayer in ("attn", "mlp")
        )
        shared = make_compressor(config.width, config.state) if config.state.shared_compressor else None
        return Block(attn, mlp, shared)

    def _initialise(self) -> None:
        """Draw the weights as the config says; kernels of the expansion, norms, biases and read vectors keep theirs."""
        config = self.config
        spread = config.hidden_std_factor * config.width**-0.5
        nn.init.normal_(self.embedding.weight, std=config.embedding_std)
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2 or name.startswith(("embedding.", "expand.")) or _starts_at_the_mean(name, self):
                continue
            is_output = name.endswith("process.out.weight")
            nn.init.normal_(parameter, std=spread * config.layers**-0.5 if is_output else spread)
        for module in self.modules():
            if isinstance(module, DeltaResidual):
                module.draw_target_bias(config.width)


def _starts_at_the_mean(name: str, model: LanguageModel) -> bool:
    """Tell whether a parameter is the weight of a direct channel compressor, which starts as a mean."""
    return name.endswith("compress.weight") and model.config.state.channel_weights == "direct"


def _span(mask: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Return where each row's tokens begin and how many there are."""
    if mask.shape != shape:
        raise ValueError(f"attention_mask has shape {tuple(mask.shape)}, input_ids {tuple(shape)}")
    tokens = mask != 0
    counts = tokens.sum(-1)
    first = tokens.to(torch.int64).argmax(-1) if shape[1] else counts
    columns = torch.arange(shape[1], device=mask.device)
    span = (columns >= first.unsqueeze(-1)) & (columns < (first + counts).unsqueeze(-1))
    if not torch.equal(span, tokens):
        raise ValueError("attention_mask has a gap between a row's tokens: padding must be before or after them")
    return first, counts
