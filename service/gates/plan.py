"""A request for a trace, checked in full before anything is run: what is left is to run it."""

from dataclasses import dataclass

from service.errors import BadIntervention, CaptureUnavailable, InvalidFields
from service.gates.align import align
from service.gates.inputs import Bounds, read_inputs
from service.gates.interventions import Intervention, check, chosen_sites
from service.gates.quantities import find_quantities
from service.gates.reductions import subjects
from service.gates.request import GatesInputs, GatesRequest, LensWish
from service.gates.selection import Selection, choose_positions, resolve
from service.gates.size import Extent, Wanted, check_size
from service.gates.subject import Input, Subject
from service.gates.trace import needs_look


@dataclass(frozen=True, eq=False)
class Patch:
    """The gates of another input, and which of its positions belong to which of the one that is patched."""

    source: Input
    own: tuple[int, ...]
    other: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """What to run: for each input its selection, where the lens looks, and its patches by number of intervention."""

    asked: GatesRequest
    inputs: tuple[Input, ...]
    selections: tuple[Selection, ...]
    quantities: tuple[str, ...]
    lens_positions: tuple[tuple[int, ...] | None, ...]
    lens: LensWish
    patches: tuple[dict[int, Patch], ...]
    warnings: tuple[str, ...]
    wanted: Wanted


def make_plan(subject: Subject, asked: GatesRequest, bounds: Bounds, *, binary: bool) -> Plan:
    """Check a request.

    Raises:
        UnprocessableRequest: a field does not fit the model.
        CaptureUnavailable: the bundle lacks an output or input that the request needs.
        ResultTooLarge: the answer would be too large.
    """
    gates = subject.gates
    quantities = find_quantities(asked.quantities, gates, over_tokens=subject.over_tokens)
    for reduction in asked.reduce:
        subjects(reduction, quantities)
    check(asked.interventions, gates)
    require_frozen(subject, asked.interventions, asked.mode)
    inputs, warnings = read_inputs(subject, asked.inputs, bounds)
    for each in asked.interventions:
        chosen_sites(each.where, gates)
    selections = tuple(resolve(asked.select, gates, one.positions) for one in inputs)
    wish = asked.lens or LensWish()
    looks = needs_look(quantities)
    if looks:
        _check_lens(subject, wish)
    places = tuple(
        _lens_positions(subject, wish, one, selection) if looks else None
        for one, selection in zip(inputs, selections, strict=True)
    )
    targets = 1 if isinstance(wish.targets, str) else len(wish.targets)
    extents = tuple(
        Extent(
            sites=len(selection.sites),
            positions=len(selection.positions),
            all_sites=len(gates.sites),
            channels=gates.value_channels,
            lens=len(at or ()),
            targets=targets,
            top_k=wish.top_k,
            pooled=subject.labels is not None,
        )
        for selection, at in zip(selections, places, strict=True)
    )
    runs = 2 if asked.interventions else 1
    wanted = Wanted(asked.select, selections, extents, quantities, tuple(asked.reduce), runs)
    check_size(wanted, bounds.json_cells, bounds.binary_cells, binary=binary)
    patches = tuple(find_patches(subject, asked.interventions, one, inputs, bounds) for one in inputs)
    return Plan(asked, tuple(inputs), selections, quantities, places, wish, patches, tuple(warnings), wanted)


def require_frozen(subject: Subject, interventions: list[Intervention], mode: str) -> None:
    """Refuse the direct effect where a bundle cannot tell it.

    Raises:
        CaptureUnavailable: it was exported without directions and states.
    """
    if interventions and mode == "frozen" and subject.gates.depth is None:
        raise CaptureUnavailable("mode frozen needs directions and states, which the bundle was exported without")


def find_patches(
    subject: Subject, interventions: list[Intervention], one: Input, batch: list[Input], bounds: Bounds
) -> dict[int, Patch]:
    """Return the source of each intervention that patches, by its number.

    Raises:
        BadIntervention: the source is not one input, or shares no position with the patched one.
    """
    found = {}
    for number, each in enumerate(interventions):
        if each.from_ is None:
            continue
        if each.from_.input is not None:
            if each.from_.input >= len(batch):
                raise BadIntervention(f"patch: there is no input {each.from_.input}, the request has {len(batch)}")
            source = batch[each.from_.input]
        else:
            sources, _ = read_inputs(subject, GatesInputs.model_validate(each.from_.inputs), bounds)
            if len(sources) != 1:
                raise BadIntervention(f"patch: from must be one input, got {len(sources)}")
            source = sources[0]
        own, other = shared_positions(one, source)
        if not own:
            raise BadIntervention("patch: the two inputs share no token at either end")
        found[number] = Patch(source, own, other)
    return found


def shared_positions(first: Input, second: Input) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the positions of two inputs that belong together: equal tokens from both ends, or patches by place."""
    if first.tokens is None or second.tokens is None:
        return tuple(range(first.positions)), tuple(range(second.positions))
    return align(first.tokens, second.tokens)


def _check_lens(subject: Subject, wish: LensWish) -> None:
    head = subject.head
    assert head is not None
    classes = len(head.weight)
    if wish.top_k > classes:
        raise InvalidFields(f"lens.top_k must be at most {classes}, as many as the model has words; got {wish.top_k}")
    if not isinstance(wish.targets, str) and max(wish.targets) >= classes:
        raise InvalidFields(f"lens.targets: {max(wish.targets)} is outside of the model's {classes} words")
    if wish.targets == "next" and subject.labels is not None:
        raise InvalidFields('lens.targets: "next" is for texts; a classifier has "predicted" or ids')


def _lens_positions(subject: Subject, wish: LensWish, one: Input, selection: Selection) -> tuple[int, ...]:
    if subject.labels is not None:
        return (0,)
    return selection.positions if wish.positions is None else choose_positions(wish.positions, one.positions)
