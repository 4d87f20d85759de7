"""What the `parameters` of a request ask for: priority, timeout, and how the outputs are to be answered."""

from collections.abc import Mapping
from typing import Any

from service.errors import InvalidTensor
from service.protocol.call import OutputWish, Parameter
from service.protocol.fields import (
    check_boolean,
    check_integer,
    check_list,
    check_object,
    check_parameters,
    check_text,
    refuse,
)
from service.protocol.view import ModelView

NONE: Mapping[str, Parameter] = {}

_OUTPUT_REQUIRED = frozenset({"name"})
_OUTPUT_OPTIONAL = frozenset({"parameters"})
_MOST_PRIORITIES = 2**32 - 1
_LONGEST_TIMEOUT_US = 24 * 3600 * 10**6


def priority(parameters: Mapping[str, Parameter]) -> int:
    """Return the priority: 1 runs first, 0 is the model's default.

    Raises:
        InvalidFields: it is no integer, or out of range.
    """
    value = parameters.get("priority")
    return 0 if value is None else check_integer(value, "parameters.priority", 0, _MOST_PRIORITIES)


def timeout_seconds(parameters: Mapping[str, Parameter]) -> float | None:
    """Return the timeout, which requests give in microseconds; None if they give none, or 0.

    Raises:
        InvalidFields: it is no integer, negative, or longer than a day.
    """
    value = parameters.get("timeout")
    if value is None:
        return None
    return check_integer(value, "parameters.timeout", 0, _LONGEST_TIMEOUT_US) / 1e6 or None


def refuse_sequences(parameters: Mapping[str, Parameter]) -> None:
    """Refuse the parameters of stateful models.

    Raises:
        InvalidFields: the request belongs to a sequence.
    """
    if parameters.get("sequence_id") or parameters.get("sequence_start") or parameters.get("sequence_end"):
        refuse("parameters.sequence_id", "models here keep no state between requests; leave the sequence out")


def refuse_shared_memory(parameters: Mapping[str, Parameter], field: str) -> None:
    """Refuse tensors outside of the request.

    Raises:
        InvalidFields: the tensor lies, or should be put, in shared memory.
    """
    if "shared_memory_region" in parameters:
        refuse(
            f"{field}.parameters.shared_memory_region", "memory is not shared with clients; send tensors in the body"
        )


def all_binary(parameters: Mapping[str, Parameter]) -> bool:
    """Return whether outputs are answered as binary data unless they say otherwise.

    Raises:
        InvalidFields: `binary_data_output` is no boolean.
    """
    value = parameters.get("binary_data_output")
    return False if value is None else check_boolean(value, "parameters.binary_data_output")


def output_wishes(outputs: Any, view: ModelView, *, binary: bool) -> tuple[OutputWish, ...]:
    """Return what a request asks for in `outputs`; None asks for the model's default outputs.

    Raises:
        InvalidFields: the list is not well formed.
        InvalidTensor: an output is unknown, asked for twice, or has no classes.
    """
    if outputs is None:
        return view.default_outputs_binary if binary else view.default_outputs
    wishes = {}
    for index, output in enumerate(check_list(outputs, "outputs", at_least=1)):
        field = f"outputs.{index}"
        given = check_object(output, field, _OUTPUT_REQUIRED, _OUTPUT_OPTIONAL)
        name = check_text(given["name"], f"{field}.name")
        parameters = check_parameters(given["parameters"], f"{field}.parameters") if "parameters" in given else NONE
        if name in wishes:
            raise InvalidTensor(f"output {name[:64]!r} is asked for twice")
        wishes[name] = output_wish(name, parameters, view, field, binary=binary)
    return tuple(wishes.values())


def output_wish(
    name: str, parameters: Mapping[str, Parameter], view: ModelView, field: str, *, binary: bool
) -> OutputWish:
    """Return how one output is to be answered.

    Raises:
        InvalidFields: a parameter is of a wrong type.
        InvalidTensor: the model has no such output, or its shape is not that of classes.
    """
    tensor = view.outputs.get(name)
    if tensor is None:
        raise InvalidTensor(f"no output {name[:64]!r}; known: {', '.join(view.outputs)}", known=list(view.outputs))
    if not parameters:
        return OutputWish(name, binary)
    refuse_shared_memory(parameters, field)
    if parameters.get("binary_data") is not None:
        binary = check_boolean(parameters["binary_data"], f"{field}.parameters.binary_data")
    classes = 0
    if parameters.get("classification") is not None:
        classes = check_integer(parameters["classification"], f"{field}.parameters.classification", 0, 2**31)
        if classes and len(tensor.shape) != 2:
            raise InvalidTensor(f"output {name!r} has shape {list(tensor.shape)}: classes need [rows, classes]")
    return OutputWish(name, binary, classes)
