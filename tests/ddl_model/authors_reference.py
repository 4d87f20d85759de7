"""The authors' model once more, straight from its specification, parameter by parameter: a reference without structure.

Slow and plain on purpose, in float64, and written without looking at `ddl_model`. It covers the knobs for which there
are no golden numbers. What the specification calls a bug of theirs (position 0 of a shift) is as it should be.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]
Config = dict[str, Any]


def logits(weights: Weights, config: Config, ids: Tensor) -> Tensor:
    """Return the logits (B, T, V) of a full forward."""
    w = {name: tensor.double() for name, tensor in weights.items()}
    embedded = w["transformer.wte.weight"][ids]
    d = embedded.shape[-1]
    scalar = "transformer.h.0.compress.read" not in w
    state = expand(w, embedded)
    for layer in range(config["num_hidden_layers"]):
        at = f"transformer.h.{layer}"
        for sublayer, norm in (("attn", "ln_1"), ("mlp", "ln_2")):
            x = state[..., 0] if scalar else compress(w, f"{at}.compress", state)
            c = rms_norm(x, w[f"{at}.{norm}.weight"], 1e-5)
            h = attention(w, f"{at}.attn", c, config) if sublayer == "attn" else mlp(w, f"{at}.mlp", c)
            state = rewrite(w, f"{at}.ddl_{sublayer}", state, h, c, x, config, scalar)
    read = state[..., 0] if scalar else compress(w, "readout", state)
    scale = config.get("hidden_size_base", 1024) / d if config.get("mup") else 1.0
    return rms_norm(read, w["ln_f.weight"], 1e-5) @ w["transformer.wte.weight"].T * scale


def rms_norm(x: Tensor, weight: Tensor | float, eps: float) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def expand(w: Weights, embedded: Tensor) -> Tensor:
    batch, tokens, d = embedded.shape
    if "transformer.h.0.compress.read" not in w:
        return embedded.unsqueeze(-1)
    dv = len(w["transformer.h.0.compress.read"])
    if "input_embed.conv.weight" not in w:
        return embedded.unsqueeze(-1).repeat(1, 1, 1, dv)
    kernel = w["input_embed.conv.weight"]
    taps = kernel.shape[-1]
    state = torch.zeros(batch, tokens, d, dv, dtype=torch.float64)
    for i in range(d):
        for j in range(dv):
            for t in range(tokens):
                for s in range(min(taps, t + 1)):
                    state[:, t, i, j] += kernel[i * dv + j, 0, taps - 1 - s] * embedded[:, t - s, i]
    return state


def compress(w: Weights, at: str, state: Tensor) -> Tensor:
    batch, tokens, d, dv = state.shape
    read = w[f"{at}.read"]
    out = torch.zeros(batch, tokens, d, dtype=torch.float64)
    if f"{at}.weight" in w:
        kernel, left = w[f"{at}.weight"], (w[f"{at}.weight"].shape[1] - 1) // 2
        for v in range(dv):
            for j in range(dv):
                if 0 <= left + v - j < kernel.shape[1]:
                    out += read[j] * kernel[:, left + v - j] * state[..., v]
        return out
    kernel = w[f"{at}.shortconv.weight"].view(d, dv, -1)
    taps = kernel.shape[-1]
    for t in range(tokens):
        for s in range(min(taps, t + 1)):
            out[:, t] += (read * kernel[:, :, taps - 1 - s] * state[:, t - s]).sum(-1)
    return out


def activate(x: Tensor, name: str | None) -> Tensor:
    return {"silu": F.silu, "relu": F.relu, "elu+1": lambda y: F.elu(y) + 1}.get(name or "", lambda y: y)(x)


def project(w: Weights, at: str, c: Tensor, heads: int) -> Tensor:
    """Return (B, T, H, D); with a shift if the projection has one."""
    if f"{at}.weight" in w:
        return (c @ w[f"{at}.weight"].T).unflatten(-1, (heads, -1))
    now = (c @ w[f"{at}.linear.weight"].T).unflatten(-1, (heads, -1))
    share = torch.sigmoid(c @ w[f"{at}.shift_proj.weight"].T).unsqueeze(-1)
    before = torch.zeros_like(now)
    before[:, 1:] = now[:, :-1]
    return share * before + (1 - share) * now


def rotate(x: Tensor, config: Config) -> Tensor:
    width = x.shape[-1]
    rotary = int(width * config.get("rope_ratio", 1.0))
    rotary -= rotary % 2
    out = x.clone()
    for t in range(x.shape[1]):
        for i in range(rotary // 2):
            angle = t * config.get("rope_base", 10000.0) ** (-2 * i / rotary)
            first, second = x[:, t, :, i], x[:, t, :, i + rotary // 2]
            out[:, t, :, i] = first * math.cos(angle) - second * math.sin(angle)
            out[:, t, :, i + rotary // 2] = first * math.sin(angle) + second * math.cos(angle)
    return out


def attention(w: Weights, at: str, c: Tensor, config: Config) -> Tensor:
    heads, width = config["num_attention_heads"], config["head_dim"]
    parts = {part: activate(project(w, f"{at}.c_{part}", c, heads), config.get(f"{part}_activation")) for part in "qkv"}
    q, k = rotate(parts["q"], config), rotate(parts["k"], config)
    if config.get("use_qk_rmsnorm", True):
        q, k = rms_norm(q, w[f"{at}.q_rms.weight"], 1e-5), rms_norm(k, w[f"{at}.k_rms.weight"], 1e-5)
    scores = torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(width)
    tokens = c.shape[1]
    scores = scores.masked_fill(torch.ones(tokens, tokens, dtype=torch.bool).triu(1), -torch.inf)
    out = torch.einsum("bhts,bshd->bthd", scores.softmax(-1), parts["v"])
    if config.get("using_groupnorm"):
        out = rms_norm(out, w[f"{at}.subln.weight"], 1e-5)
    elif config.get("use_output_gate"):
        out = rms_norm(out, w[f"{at}.o_norm.weight"], config.get("rms_norm_eps", 1e-5))
    out = out.flatten(2)
    if config.get("use_output_gate"):
        out = out * F.silu(c @ w[f"{at}.g_proj.weight"].T)
    return out @ w[f"{at}.c_proj.weight"].T


def mlp(w: Weights, at: str, c: Tensor) -> Tensor:
    return (F.silu(c @ w[f"{at}.c_fc1.weight"].T) * (c @ w[f"{at}.c_fc2.weight"].T)) @ w[f"{at}.c_proj.weight"].T


def rewrite(
    w: Weights, at: str, state: Tensor, h: Tensor, c: Tensor, x: Tensor, config: Config, scalar: bool
) -> Tensor:
    k = h / torch.sqrt((h * h).sum(-1, keepdim=True) + config.get("ddl_k_eps", 1e-5) ** 2)
    if f"{at}.beta.weight" in w:
        logit = c @ w[f"{at}.beta.weight"].T + w[f"{at}.beta.bias"]
    else:
        logit = torch.tanh(c @ w[f"{at}.beta_in.weight"].T) @ w[f"{at}.beta_out.weight"].T + w[f"{at}.beta_out.bias"]
    beta = 2 * torch.sigmoid(logit)
    constant = "ddl_v_dim1_constant" if scalar else "ddl_v_constant"
    v = x @ w[f"{at}.v_proj.weight"].T + w[f"{at}.v_proj.bias"]
    if config.get(constant):
        v = torch.full_like(v, config.get(f"{constant}_value", 2.0))
    elif config.get("ddl_v_sigmoid", True):
        v = torch.sigmoid(v) * config.get("ddl_v_sigmoid_scale", 4.0)
    read = torch.einsum("btd,btdv->btv", k, state)
    return state + k.unsqueeze(-1) * (beta * (v - read)).unsqueeze(-2)
