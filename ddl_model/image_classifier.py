"""From pixels to class logits over delta blocks."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ddl_model.attention import SelfAttention
from ddl_model.block import Block, SublayerStep, run_blocks
from ddl_model.compress import Reading, make_compressor
from ddl_model.config import ImageClassifierConfig
from ddl_model.expand import repeat_channels
from ddl_model.feedforward import SwiGLU
from ddl_model.observe import Observer, site_names
from ddl_model.same_start import delta_twin, start_as


class ConvStem(nn.Module):
    """3x3 convolutions with batch norm and GELU: the first keeps the image's size, each further one halves it."""

    def __init__(self, channels: int, planes: tuple[int, ...], width: int) -> None:
        """Make one convolution per entry of `planes` and a last one to `width` planes."""
        super().__init__()
        layers: list[nn.Module] = []
        for index, out in enumerate((*planes, width)):
            stride = 1 if index == 0 else 2
            layers += [nn.Conv2d(channels, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out)]
            layers += [nn.GELU()] if index < len(planes) else []
            channels = out
        self.layers = nn.Sequential(*layers)

    def forward(self, pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b t d"]:
        """Return one token per stride x stride patch, row by row."""
        planes: Tensor = self.layers(pixels)
        return planes.flatten(2).transpose(1, 2)


class ImageClassifier(nn.Module):
    """Stem, position embedding, delta blocks, mean over tokens, linear head.

    The state starts with columns of length about 1 (entries of size 1/sqrt(d)), so that targets of size 1, written
    along unit directions, are as large as what they overwrite.
    """

    def __init__(self, config: ImageClassifierConfig) -> None:
        """Make a classifier with random weights; seed torch for reproducible ones."""
        super().__init__()
        # Made first, so that it draws what the delta network of the same seed draws.
        twin_config = delta_twin(config)
        twin = None if twin_config is None else type(self)(twin_config)
        self.config = config
        rows, columns = config.grid
        width = config.width
        self.stem = ConvStem(config.image_channels, config.stem_planes, width)
        self.position = nn.Parameter(torch.randn(rows * columns, width) * 0.2)
        self.embedding_norm = nn.RMSNorm(width, eps=1e-5)
        self.blocks = nn.ModuleList(self._block(layer) for layer in range(config.layers))
        self.final_compress = make_compressor(width, config.state)
        self.final_norm = nn.RMSNorm(width, eps=1e-5)
        self.head = nn.Linear(width, len(config.labels))
        nn.init.constant_(self.embedding_norm.weight, width**-0.5)
        if twin is not None:
            start_as(self, twin)

    @property
    def sites(self) -> list[str]:
        """Names of the rewrites in order; an additive network has none."""
        return site_names(self.config.layers) if self.config.residual.rule != "additive" else []

    def embed(self, pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b t d dv"]:
        """Return the first state X_0."""
        tokens = self.embedding_norm(self.stem(pixels) + self.position)
        return repeat_channels(tokens, self.config.state.value_channels)

    def forward(self, pixels: Float[Tensor, "b c h w"], observer: Observer | None = None) -> Float[Tensor, "b classes"]:
        """Return class logits of images that are normalised as the config says."""
        last = Reading(self.final_compress, self.final_norm, None, "final.compress")
        _, seen = run_blocks(self.blocks, self.embed(pixels), last, observer)
        logits: Tensor = self.head(seen.context.mean(dim=1))
        return logits

    def _block(self, layer: int) -> Block:
        config = self.config
        width, residual, state = config.width, config.residual, config.state
        attn = SublayerStep(SelfAttention(width, config.heads), width, residual, state, layer, "attn")
        mlp = SublayerStep(SwiGLU(width, config.feedforward_width), width, residual, state, layer, "mlp")
        return Block(attn, mlp, make_compressor(width, state) if state.shared_compressor else None)
