"""One pass over a model and all that was asked about it; or over any network, from what an observer kept."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ddl_model.config import ResidualConfig
from ddl_model.delta_op import DeltaRewrite
from ddl_model.generators import Normalise
from ddl_model.image_classifier import ImageClassifier
from ddl_model.interventions import Intervention
from ddl_model.language_model import LanguageModel
from ddl_model.observe import Observer, site_names
from ddl_model.quantities.attribution import attribution
from ddl_model.quantities.catalogue import CATALOGUE, Choice, QuantityError, Situation, choose
from ddl_model.quantities.collect import Collector, Seen
from ddl_model.quantities.head import NO_HEAD, Head, choose_targets, head_of
from ddl_model.quantities.lens import lens

NO_STATES = "the observer kept no states; make it by Observer(keep_states=True)"


@dataclass(frozen=True, eq=False)
class Trace(Mapping[str, Tensor]):
    """Quantities by name, their sites in order, and the logits of the pass.

    `absent` names what the presets asked for and the network does not have, with the reasons. `targets` are the words
    that `lens_target_*` (the first of each position), `logit_contrib` and `readout_alignment` are about.
    """

    quantities: dict[str, Tensor]
    sites: tuple[str, ...]
    logits: Tensor
    targets: Tensor
    absent: dict[str, str]

    def __getitem__(self, name: str) -> Tensor:
        """Return a quantity.

        Raises:
            KeyError: it was not asked for, or does not exist here.
        """
        if name not in self.quantities:
            reason = self.absent.get(name, f"not asked for; there are {', '.join(self.quantities)}")
            raise KeyError(f"{name}: {reason}")
        return self.quantities[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.quantities)

    def __len__(self) -> int:
        return len(self.quantities)

    def axes(self, name: str) -> tuple[str, ...]:
        """Return the names of a quantity's axes."""
        axes = CATALOGUE[name].axes
        return axes if len(axes) == self[name].ndim else (*axes, "group")


class _Tracer(Observer):
    """An observer that keeps nothing: it hands each site on as it comes."""

    def __init__(self, interventions: Sequence[Intervention], collector: Collector, head: Head | None) -> None:
        super().__init__(interventions)
        self.sites: list[str] = []
        self.hidden: list[Tensor] = []
        self._collector = collector
        self._head = head

    def record(
        self,
        site: str,
        rewrite: DeltaRewrite,
        state: Float[Tensor, "b t d dv"],
        direction: Float[Tensor, "b t d"],
        normalise: Normalise | None = None,
    ) -> None:
        if normalise is not None:
            self.normalises[site] = normalise
        self._take(Seen(site, rewrite, direction, state, rewrite.new_state))

    def record_addition(
        self,
        site: str,
        state: Float[Tensor, "b t d dv"],
        output: Float[Tensor, "b t d"],
        new_state: Float[Tensor, "b t d dv"],
    ) -> None:
        self._take(Seen(site, None, output, state, new_state))

    def _take(self, seen: Seen) -> None:
        self.sites.append(seen.site)
        self._collector.add(seen, self)
        if self._head is not None:
            self.hidden.append(self._head.hidden(seen.after))


@torch.no_grad()
def trace(
    model: LanguageModel | ImageClassifier,
    inputs: Tensor,
    quantities: str | Sequence[str] = "page",
    *,
    interventions: Sequence[Intervention] = (),
    targets: str | Tensor = "predicted",
    top_k: int | None = None,
) -> Trace:
    """Run the model once over whole rows of inputs and return what was asked about the pass; no gradients.

    `quantities` is a preset (`core`, `audit`, `page`, `path`, `all`), a name of the catalogue, or a list of both.
    Tensors are (site, row, position, ...): see `Trace.axes`. Of a language model `targets` are `predicted`, `next` or
    ids (b, t) or (b, t, n); of a classifier, whose lens has one position for the whole image, `predicted` or classes
    (b,) or (b, n). An id of -1 is no target. `top_k` words are in `lens_topk`: 5, or all where there are fewer. Only
    what was asked for is computed, and of a state only what that needs is kept.

    Raises:
        QuantityError: a quantity does not exist, or not in this network; targets or `top_k` do not fit the model.
        ValueError: the model is of another kind, or an intervention names a site that it does not have.
    """
    if not isinstance(model, LanguageModel | ImageClassifier):
        raise ValueError(
            f"trace takes a LanguageModel or an ImageClassifier, got {type(model).__name__}: "
            "run it with an Observer(keep_states=True), then use measure"
        )
    config = model.config
    head = head_of(model, inputs)
    situation = Situation(config.residual.rule, config.state.value_channels, no_attribution=head.no_attribution)
    choice = choose(quantities, situation)
    _check_sites(interventions, model)
    collector = Collector(choice, config.residual)
    families = {CATALOGUE[name].family for name in choice.names}
    tracer = _Tracer(interventions, collector, head if "lens" in families else None)
    logits = model(inputs, observer=tracer)
    final = logits.unsqueeze(1) if head.pooled else logits
    chosen = choose_targets(targets, head, inputs, final)
    found = collector.result() | lens(choice.names, head, tracer.hidden, final, chosen, top_k)
    if collector.depth is not None:
        found |= attribution(choice.names, head, collector.depth, chosen)
    in_order = {name: found[name] for name in choice.names}
    return Trace(in_order, tuple(tracer.sites), logits, chosen, choice.absent)


def measure(
    observer: Observer,
    residual: ResidualConfig,
    quantities: str | Sequence[str] = "all",
    sites: Sequence[str] | None = None,
) -> dict[str, Tensor]:
    """Return quantities of a pass that an observer saw, of any network here; the head's are not among them.

    `residual` is the network's `config.residual`. `sites` chooses neighbours among the sites, which must be alike in
    shape: in a convolutional network, those of one stage. X_0 is the state before the first of them. Gradients flow if
    the pass had them.

    Raises:
        QuantityError: a quantity does not exist, or not here.
        ValueError: the observer saw no such site, or the states of the sites differ in shape.
    """
    seen = _seen(observer, sites)
    shapes = {one.site: tuple(one.after.shape) for one in seen}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"the states of the sites differ in shape, choose sites of one shape: {shapes}")
    no_states = None if observer.keep_states else NO_STATES
    channels = seen[0].after.shape[-1]
    choice: Choice = choose(quantities, Situation(residual.rule, channels, no_states, NO_HEAD, NO_HEAD))
    collector = Collector(choice, residual)
    for one in seen:
        collector.add(one, observer)
    found = collector.result()
    return {name: found[name] for name in choice.names}


def _seen(observer: Observer, sites: Sequence[str] | None) -> list[Seen]:
    every = {
        site: Seen(site, rewrite, None, None, rewrite.new_state) for site, rewrite in observer.rewrites.items()
    } | {site: Seen(site, None, done.output, None, done.new_state) for site, done in observer.additions.items()}
    if not every:
        raise ValueError("the observer has seen no site: give it to a forward pass first")
    if missing := [site for site in sites or () if site not in every]:
        raise ValueError(f"the observer has not seen {missing[0]}; it has seen {', '.join(every)}")
    chosen = [every[site] for site in (every if sites is None else sites)]
    if not observer.keep_states:
        return chosen
    return [replace(one, raw=observer.directions[one.site], before=observer.states[one.site]) for one in chosen]


def _check_sites(interventions: Sequence[Intervention], model: LanguageModel | ImageClassifier) -> None:
    if interventions and model.config.residual.rule == "additive":
        raise ValueError("interventions change gates, and an additive network has none")
    known = site_names(model.config.layers)
    for intervention in interventions:
        for site in (*(intervention.sites or ()), *intervention.betas):
            if site not in known:
                raise ValueError(f"an intervention names the site {site!r}; there are {', '.join(known)}")


__all__ = ["QuantityError", "Trace", "measure", "trace"]
