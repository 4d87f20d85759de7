"""Gates of texts for the tests of live statistics: correlated inside a text, as real ones are."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.gates.live.histograms import BINS, count_gates
from service.gates.reference import Reference
from service.manifest.gates import Gates, Positions, Site

SITES = 12
TOKENS = 64


def sites(count: int) -> tuple[Site, ...]:
    """Return the sites of a network."""
    names = [("attn", "mlp")[index % 2] for index in range(count)]
    return tuple(
        Site(index=index, name=f"{index // 2}.{sub}", layer=index // 2, sublayer=sub, module=f"m.{index}")  # type: ignore[arg-type]
        for index, sub in enumerate(names)
    )


def gates(count: int = 2) -> Gates:
    """Return what a manifest says of a language model with so many sites."""
    outputs = {"beta": tuple(f"gates/{site.name}/beta" for site in sites(count))}
    return Gates(
        update_rule="delta",
        value_channels=1,
        direction_eps=1e-5,
        value_map=None,
        positions=Positions(kind="token"),
        sites=sites(count),
        outputs=outputs,
    )


def texts(count: int, *, seed: int, shift: float = 0.0) -> NDArray[np.float32]:
    """Return gates (site, text, token): each text has a level of its own at each site, tokens vary around it."""
    generator = np.random.default_rng(seed)
    level = generator.normal(0, 0.35, (SITES, count, 1))
    logits = np.linspace(-1, 1, SITES)[:, None, None] + shift + level + generator.normal(0, 0.9, (SITES, count, TOKENS))
    return (2 / (1 + np.exp(-logits))).astype(np.float32)


def by_text(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return counts (text, site, bin)."""
    texts_first = np.ascontiguousarray(values.transpose(1, 0, 2)).reshape(-1, values.shape[2])
    return count_gates(texts_first).fine.reshape(-1, SITES, BINS)


def reference_of(content: dict[str, Any]) -> Reference:
    """Read what an audit wrote."""
    return Reference.model_validate(content)
