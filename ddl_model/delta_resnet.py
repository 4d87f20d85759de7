"""A convolutional residual network in the general form: planes are rewritten along one direction of each image.

The state X is (d, d_v) with the planes as d and the positions as d_v: k weighs planes, so a rewrite reads one map
k^T X of the image, and moves it towards the map v that a convolutional branch gives. The first edition names this
reading (pooling over value columns, any backbone as branch) but no layers: stages, norms and branch are ours.
"""

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from ddl_model.branch_residual import BranchResidual
from ddl_model.config import DeltaResNetConfig, ResidualConfig
from ddl_model.observe import Observer


class ConvBlock(nn.Module):
    """Two 3x3 convolutions, each after batch norm and GELU, to one plane of targets; or, additive, to all planes."""

    def __init__(self, planes: int, residual: ResidualConfig, site: str) -> None:
        """Make the branch, and the residual that takes its output."""
        super().__init__()
        self.residual = None if residual.rule == "additive" else BranchResidual(planes, residual, site)
        self.branch = nn.Sequential(
            nn.BatchNorm2d(planes),
            nn.GELU(),
            nn.Conv2d(planes, planes, 3, padding=1, bias=False),
            nn.BatchNorm2d(planes),
            nn.GELU(),
            nn.Conv2d(planes, planes if self.residual is None else 1, 3, padding=1),
        )

    def forward(self, image: Float[Tensor, "b d h w"], observer: Observer | None = None) -> Float[Tensor, "b d h w"]:
        """Return the planes after the residual."""
        branch: Tensor = self.branch(image)
        if self.residual is None:
            return image + branch
        # One position (the whole image) with h w value channels.
        state: Tensor = self.residual(image.flatten(2).unsqueeze(1), branch.flatten(2), observer)
        return state.view_as(image)


class Stage(nn.Module):
    """A convolution to the stage's planes, then residual blocks."""

    def __init__(self, before: int, planes: int, stride: int, residual: ResidualConfig, sites: list[str]) -> None:
        """Make one block per site."""
        super().__init__()
        self.enter = nn.Conv2d(before, planes, 3, stride, padding=1)
        self.blocks = nn.ModuleList(ConvBlock(planes, residual, site) for site in sites)

    def forward(self, image: Float[Tensor, "b c h w"], observer: Observer | None = None) -> Tensor:
        """Return the stage's planes."""
        image = self.enter(image)
        for block in self.blocks:
            image = block(image, observer)
        return image


class DeltaResNet(nn.Module):
    """Stem, stages of residual blocks, mean over positions, linear head.

    Its sites, `0.conv`, `1.conv` and so on, have one position each. Their value channels are the positions of their
    stage, so `quantities` wants the sites of one stage at a time: see `stage_sites`.
    """

    def __init__(self, config: DeltaResNetConfig) -> None:
        """Make a network with random weights; seed torch for reproducible ones."""
        super().__init__()
        self.config = config
        widths = (config.image_channels, *config.planes)
        self.stages = nn.ModuleList(
            Stage(before, planes, 1 if stage == 0 else 2, config.residual, self._names(stage))
            for stage, (before, planes) in enumerate(pairwise(widths))
        )
        self.final_norm = nn.BatchNorm2d(config.planes[-1])
        self.head = nn.Linear(config.planes[-1], len(config.labels))

    @property
    def stage_sites(self) -> list[list[str]]:
        """Names of each stage's rewrites in order; an additive network has none."""
        if self.config.residual.rule == "additive":
            return [[] for _ in self.config.planes]
        return [self._names(stage) for stage in range(len(self.config.planes))]

    @property
    def sites(self) -> list[str]:
        """Names of all rewrites in order."""
        return [name for names in self.stage_sites for name in names]

    def forward(self, pixels: Float[Tensor, "b c h w"], observer: Observer | None = None) -> Float[Tensor, "b classes"]:
        """Return class logits of images that are normalised as the config says."""
        image = pixels
        for stage in self.stages:
            image = stage(image, observer)
        features = nn.functional.gelu(self.final_norm(image)).mean((-2, -1))
        logits: Tensor = self.head(features)
        return logits

    def _names(self, stage: int) -> list[str]:
        first = stage * self.config.blocks
        return [f"{layer}.conv" for layer in range(first, first + self.config.blocks)]
