"""The delta residual in its general form: any branch of a network gives the target, the state gives the rest.

`X' = X + beta(X) k(X) (v(X)^T - k(X)^T X)`, with k and beta from the pooled state. Source: DDL v1 (arXiv
2601.00417v1), Eq. 2.5, generators of its appendix A. It names no layers for convolutional networks; those that use
this form here are our reading of it, and say so.
"""

from jaxtyping import Float
from torch import Tensor

from ddl_model.config import ResidualConfig
from ddl_model.gated_rewrite import GatedRewrite
from ddl_model.generators import bound_target, normalise_pooled
from ddl_model.observe import Observer


class BranchResidual(GatedRewrite):
    """Rewrite a state towards what a branch says, along a direction and with a gate made from the state itself.

    With `rule` "write_only" the state is written without erasing.
    """

    def __init__(self, width: int, config: ResidualConfig, site: str) -> None:
        """Make the generators; the number of value channels is free, and may differ from call to call."""
        super().__init__(width, config, site)
        self.erases = config.rule == "delta"
        self.open_gate(config.gate_init)

    def forward(
        self, state: Float[Tensor, "b t d dv"], branch: Float[Tensor, "b t dv"], observer: Observer | None = None
    ) -> Float[Tensor, "b t d dv"]:
        """Return the next state; `branch` is the target, before its bound if the config asks for one."""
        raw = self.direction(state)
        logit = self.logit(normalise_pooled(state.mean(-1)))
        override = None if observer is None else observer.overrides.get(self.site)
        rewrite = self.plain(state, raw, logit, bound_target(branch, self.target_scale), override)
        return self.observed(state, raw, rewrite, observer)
