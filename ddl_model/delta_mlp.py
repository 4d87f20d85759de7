"""A multilayer perceptron in the general residual form, for vectors and for sequences that are pooled at the end."""

from jaxtyping import Float
from torch import Tensor, nn

from ddl_model.branch_residual import BranchResidual
from ddl_model.config import DeltaMLPConfig
from ddl_model.observe import Observer


class PerceptronBlock(nn.Module):
    """A norm and two layers on the flattened state, to one target per value channel; or, additive, to all of it."""

    def __init__(self, config: DeltaMLPConfig, site: str) -> None:
        """Make the branch, and the residual that takes its output."""
        super().__init__()
        entries, additive = config.width * config.value_channels, config.residual.rule == "additive"
        self.residual = None if additive else BranchResidual(config.width, config.residual, site)
        self.branch = nn.Sequential(
            nn.RMSNorm(entries, eps=1e-5),
            nn.Linear(entries, config.branch_width),
            nn.GELU(),
            nn.Linear(config.branch_width, entries if additive else config.value_channels),
        )

    def forward(self, state: Float[Tensor, "b t d dv"], observer: Observer | None = None) -> Float[Tensor, "b t d dv"]:
        """Return the state after the residual."""
        branch: Tensor = self.branch(state.flatten(-2))
        if self.residual is None:
            return state + branch.view_as(state)
        rewritten: Tensor = self.residual(state, branch, observer)
        return rewritten


class DeltaMLP(nn.Module):
    """Linear map to the first state, residual blocks, norm, mean over positions, linear head.

    Every position of a sequence is rewritten by itself, and all of them count alike in the mean: their order does not
    matter. Where positions must see each other, the language model takes the same form of residual. The sites are
    `0.mlp`, `1.mlp` and so on.
    """

    def __init__(self, config: DeltaMLPConfig) -> None:
        """Make a network with random weights; seed torch for reproducible ones."""
        super().__init__()
        self.config = config
        entries = config.width * config.value_channels
        self.enter = nn.Linear(config.inputs, entries)
        self.blocks = nn.ModuleList(PerceptronBlock(config, f"{layer}.mlp") for layer in range(config.layers))
        self.final_norm = nn.RMSNorm(entries, eps=1e-5)
        self.head = nn.Linear(entries, len(config.labels))

    @property
    def sites(self) -> list[str]:
        """Names of the rewrites in order; an additive network has none."""
        if self.config.residual.rule == "additive":
            return []
        return [f"{layer}.mlp" for layer in range(self.config.layers)]

    def forward(
        self, inputs: Float[Tensor, "*bt features"], observer: Observer | None = None
    ) -> Float[Tensor, "b classes"]:
        """Return class logits of vectors (b, inputs) or of sequences (b, t, inputs).

        Raises:
            ValueError: the inputs have another shape, or no position.
        """
        if inputs.ndim not in (2, 3) or inputs.shape[-1] != self.config.inputs or 0 in inputs.shape[1:]:
            expected = f"(batch, {self.config.inputs}) or (batch, positions, {self.config.inputs})"
            raise ValueError(f"inputs must have shape {expected}, got {tuple(inputs.shape)}")
        positions = inputs.unsqueeze(1) if inputs.ndim == 2 else inputs
        state = self.enter(positions).unflatten(-1, (self.config.width, self.config.value_channels))
        for block in self.blocks:
            state = block(state, observer)
        logits: Tensor = self.head(self.final_norm(state.flatten(-2)).mean(1))
        return logits
