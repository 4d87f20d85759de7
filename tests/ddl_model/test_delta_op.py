"""`ddl::delta_rewrite` is the formulas of `delta.py` with a gate and a target in front."""

import torch
from torch import Tensor

from ddl_model import delta
from ddl_model.delta_op import RewriteArguments, RewriteOptions, delta_rewrite


def arguments(n: int = 3, d: int = 5, dv: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    shapes = [(n, d, dv), (n, d), (n, d), (n, d), (1, d), (1,), (dv, d), (dv,)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def test_it_is_the_plain_formula() -> None:
    state, raw, context, u, gate_weight, gate_bias, target_weight, target_bias = arguments()
    weights = (gate_weight, gate_bias, target_weight, target_bias)
    out = delta_rewrite(RewriteArguments(state, raw, context, u, *weights), RewriteOptions(0.1, 4.0))
    k = raw / (raw.square().sum(-1, keepdim=True) + 0.01).sqrt()
    logit = (context * gate_weight).sum(-1) + gate_bias
    beta = 2 / (1 + torch.exp(-logit))
    v = 4 / (1 + torch.exp(-(u @ target_weight.T + target_bias)))
    read = torch.einsum("nd,ndv->nv", k, state)
    torch.testing.assert_close(out.new_state, state + torch.einsum("n,nd,nv->ndv", beta, k, v - read))
    torch.testing.assert_close(out.beta, beta)
    torch.testing.assert_close(out.gate_logit, logit)
    torch.testing.assert_close(out.target, v)
    torch.testing.assert_close(out.readout, read)
    torch.testing.assert_close(out.direction_norm, raw.norm(dim=-1))


def test_the_linear_target_is_not_squashed() -> None:
    args = arguments()
    out = delta_rewrite(RewriteArguments(*args), RewriteOptions(1e-5))
    torch.testing.assert_close(out.target, args[3] @ args[6].T + args[7])


def test_gradients_of_every_argument_are_right() -> None:
    args = [argument.requires_grad_() for argument in arguments()]

    def new_state(*values: Tensor) -> Tensor:
        return delta_rewrite(RewriteArguments(*values), RewriteOptions(0.1, 2.0)).new_state

    assert torch.autograd.gradcheck(new_state, args)


def test_the_fused_form_equals_its_parts_in_float32() -> None:
    args = [argument.float() for argument in arguments(n=6, d=33, dv=4)]
    out = delta_rewrite(RewriteArguments(*args), RewriteOptions(1e-5))
    k = delta.unit_direction(args[1], 1e-5).k
    torch.testing.assert_close(out.new_state, delta.rewrite(args[0], k, out.target, out.beta))
