"""How a sublayer's output enters the state: the delta rewrite, or plain addition, behind one signature."""

from jaxtyping import Float
from torch import Tensor, nn

from ddl_model.config import ResidualConfig
from ddl_model.delta import logit_from_gate
from ddl_model.delta_op import delta_rewrite
from ddl_model.observe import Observer


class Residual(nn.Module):
    """The signature that both rules share; `site` names the rewrite for observers."""

    def __init__(self, site: str) -> None:
        """Keep the name of the site."""
        super().__init__()
        self.site = site

    def forward(
        self,
        state: Float[Tensor, "b t d dv"],
        output: Float[Tensor, "b t d"],
        context: Float[Tensor, "b t d"],
        compressed: Float[Tensor, "b t d"],
        observer: Observer | None = None,
    ) -> Float[Tensor, "b t d dv"]:
        """Return the next state from the sublayer's `output`.

        `context` is the sublayer's input after its norm, `compressed` the same before the norm.
        """
        raise NotImplementedError


class DeltaResidual(Residual):
    """Rewrite the state along the sublayer's output: `X + beta k (v - k^T X)^T`. Source: DDL Eq. 2.2."""

    def __init__(self, width: int, config: ResidualConfig, site: str) -> None:
        """Make the gate's and the target's projections; the gate starts open to `config.gate_init` everywhere."""
        super().__init__(site)
        self.direction_eps = config.direction_eps
        self.target_from_context = config.target_input == "context"
        self.target_scale = config.target_scale if config.target_map == "scaled_sigmoid" else 0.0
        self.gate = nn.Linear(width, 1)
        self.target = nn.Linear(width, config.value_channels)
        nn.init.normal_(self.gate.weight, std=0.02)
        nn.init.constant_(self.gate.bias, logit_from_gate(config.gate_init))
        nn.init.normal_(self.target.weight, std=width**-0.5)
        nn.init.zeros_(self.target.bias)

    def forward(
        self,
        state: Float[Tensor, "b t d dv"],
        output: Float[Tensor, "b t d"],
        context: Float[Tensor, "b t d"],
        compressed: Float[Tensor, "b t d"],
        observer: Observer | None = None,
    ) -> Float[Tensor, "b t d dv"]:
        """See `Residual.forward`."""
        rewrite = delta_rewrite(
            state,
            output,
            context,
            context if self.target_from_context else compressed,
            self.gate.weight,
            self.gate.bias,
            self.target.weight,
            self.target.bias,
            direction_eps=self.direction_eps,
            target_scale=self.target_scale,
        )
        if observer is not None:
            observer.record(self.site, rewrite)
        return rewrite.new_state


class AdditiveResidual(Residual):
    """Add the sublayer's output to every value channel of the state: the residual network to compare with."""

    def forward(
        self,
        state: Float[Tensor, "b t d dv"],
        output: Float[Tensor, "b t d"],
        context: Float[Tensor, "b t d"],
        compressed: Float[Tensor, "b t d"],
        observer: Observer | None = None,
    ) -> Float[Tensor, "b t d dv"]:
        """See `Residual.forward`. There is no gate to observe."""
        return state + output.unsqueeze(-1)


def make_residual(width: int, config: ResidualConfig, site: str) -> Residual:
    """Return the residual rule that the config names."""
    if config.rule == "delta":
        return DeltaResidual(width, config, site)
    return AdditiveResidual(site)
