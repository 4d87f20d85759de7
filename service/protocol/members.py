"""The members of a request beside its tensors."""

from typing import Any

from service.errors import InvalidTensor
from service.protocol.call import InferCall
from service.protocol.fields import check_parameters, check_text
from service.protocol.parameters import all_binary, output_wishes, priority, refuse_sequences, timeout_seconds
from service.protocol.view import ModelView, TensorView

REQUIRED = frozenset({"inputs"})
OPTIONAL = frozenset({"id", "parameters", "outputs", "model_name", "model_version"})
"""The path names the model; what clients say of it in the body is passed over."""


def read_members(given: dict[str, Any], view: ModelView) -> InferCall:
    """Make a call, without feeds as yet, of a request's members.

    Raises:
        InvalidFields: a member is of a wrong type.
        InvalidTensor: an output is asked for that the model does not have.
    """
    parameters = check_parameters(given["parameters"], "parameters") if "parameters" in given else {}
    call = InferCall({}, 1, output_wishes(given.get("outputs"), view, binary=all_binary(parameters)))
    if given.get("id") is not None:
        call.id = check_text(given["id"], "id", 256)
    for name in ("model_name", "model_version"):
        if given.get(name) is not None:
            check_text(given[name], name)
    if parameters:
        refuse_sequences(parameters)
        call.priority = priority(parameters)
        call.timeout_seconds = timeout_seconds(parameters)
        call.parameters = parameters
    return call


def find_input(name: str, call: InferCall, view: ModelView) -> TensorView:
    """Return the model's input of this name.

    Raises:
        InvalidTensor: it has none, or the call has its feed already.
    """
    known = view.inputs.get(name)
    if known is None:
        raise InvalidTensor(f"no input {name[:64]!r}; known: {', '.join(view.inputs)}", known=list(view.inputs))
    if name in call.feeds:
        raise InvalidTensor(f"input {name!r} is given twice")
    return known


def count_rows(call: InferCall, view: ModelView) -> None:
    """Set the call's rows when all its feeds are there.

    Raises:
        InvalidTensor: an input is missing, or two have different numbers of rows.
    """
    if len(call.feeds) != len(view.inputs):
        missing = next(name for name in view.inputs if name not in call.feeds)
        raise InvalidTensor(f"input {missing!r} is missing", known=list(view.inputs))
    if view.batchable:
        rows = {len(array) for array in call.feeds.values()}
        if len(rows) > 1:
            raise InvalidTensor(f"the inputs have different numbers of rows: {', '.join(map(str, sorted(rows)))}")
        call.rows = rows.pop()
