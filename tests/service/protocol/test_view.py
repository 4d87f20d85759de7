import numpy as np

from service.manifest.manifest import Manifest
from service.protocol.call import OutputWish
from service.protocol.view import model_view
from tests.service.tiny_bundle import HEIGHT, LABELS, TOKENS, WIDTH, make_manifest, output_shapes


def test_a_view_is_what_the_manifest_says() -> None:
    view = model_view("tiny", "4", Manifest.model_validate(make_manifest()))
    assert (view.name, view.version, view.batchable) == ("tiny", "4", True)
    pixels = view.inputs["pixels"]
    assert (pixels.datatype, pixels.shape, pixels.dtype) == ("FP32", (-1, 1, HEIGHT, WIDTH), np.float32)
    assert view.outputs.keys() == output_shapes().keys()
    assert view.default_outputs == (OutputWish("probabilities"), OutputWish("logits"))
    assert view.default_outputs_binary == (OutputWish("probabilities", True), OutputWish("logits", True))


def test_labels_belong_to_outputs_with_a_number_for_each_class() -> None:
    view = model_view("tiny", "1", Manifest.model_validate(make_manifest()))
    assert {name for name, tensor in view.outputs.items() if tensor.labels == LABELS} == {"probabilities", "logits"}
    assert all(tensor.labels in ((), LABELS) for tensor in view.outputs.values())


def test_gates_of_as_many_positions_as_there_are_classes_have_no_labels() -> None:
    labels = tuple(f"class {index}" for index in range(TOKENS))
    values = make_manifest()
    values["task"]["labels"] = labels
    for output in values["graph"]["outputs"]:
        if output["name"] in ("probabilities", "logits"):
            output["shape"] = [-1, TOKENS]
    view = model_view("tiny", "1", Manifest.model_validate(values))
    assert view.outputs["0.attn/beta"].shape == view.outputs["logits"].shape
    assert view.outputs["0.attn/beta"].labels == ()
    assert view.outputs["logits"].labels == labels


def test_a_first_axis_of_fixed_length_is_no_row_axis() -> None:
    values = make_manifest()
    values["graph"]["outputs"].append({"name": "total", "datatype": "FP32", "shape": [1]})
    assert not model_view("tiny", "1", Manifest.model_validate(values)).batchable
