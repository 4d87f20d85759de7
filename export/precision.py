"""Matrix products with weights of 8 or 4 bits, by ONNX Runtime's own quantizer.

Weights are rounded in blocks along the inner axis, each block with a scale of its own, and become nodes
`com.microsoft::MatMulNBits`. Their kernels quantise activations as well, row by row, so an answer does not depend on
what else is in the batch; ONNX Runtime's dynamic quantisation has one scale for the whole batch. An embedding that is
also the head keeps 8 bits: it is worth it, see docs/bundles.md. Everything else stays float32: gates, targets, norms,
convolutions and the state are small, and the delta operators need them exact.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from export.ops.contract import DOMAIN, REWRITES
from export.trace import ExportedGraph

BITS = {"int8": 8, "int4": 4}

_EMBEDDING_BITS = 8

_BLOCKS = {8: (128, 64, 32, 16), 4: (32, 16)}
"""Values that share a scale: as many as divide a row, because blocks are filled up. Fewer bits need finer scales."""

_INT8_ACTIVATIONS = 4
"""The quantizer's accuracy level: activations may be rounded to 8 bits, where the processor has kernels for that."""

_GATE_INPUT = 2
"""Place of the gate's input among the inputs of a rewriting node."""

_MICROSOFT = "com.microsoft"


def quantise(graph: ExportedGraph, bits: int) -> ExportedGraph:
    """Return the graph with weights of `bits` bits in its matrix products."""
    model = ir.serde.serialize_model(graph.model)
    heads = _split_linear_maps(model.graph)
    for (product_bits, block), names in _products(model.graph, heads, bits).items():
        _quantise_products(model, names, product_bits, block)
    _quantise_embeddings(model.graph, heads)
    _drop_unused_weights(model.graph)
    return ExportedGraph(ir.serde.deserialize_model(model), graph.custom_ops)


def leave_activations(graph: ExportedGraph) -> None:
    """Let activations of quantised products stay float32, as on processors without kernels for 8 bits."""
    for node in graph.model.graph:
        if node.op_type == "MatMulNBits":
            node.attributes.pop("accuracy_level")


def _split_linear_maps(graph: onnx.GraphProto) -> dict[str, str]:
    """Make of each `Gemm` with constant weights a product and a sum, which is what the quantizer knows.

    Returns:
        By the output of a product whose weights were a transposed tensor, the name of that tensor.
    """
    weights = {tensor.name: tensor for tensor in graph.initializer}
    sources: dict[str, str] = {}
    nodes = []
    for node in graph.node:
        options = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        plain = options.get("alpha", 1.0) == options.get("beta", 1.0) == 1.0 and not options.get("transA")
        if node.op_type != "Gemm" or not plain or node.input[1] not in weights:
            nodes.append(node)
            continue
        (out,) = node.output
        product = f"{out}/product" if len(node.input) > 2 else out
        weight = node.input[1]
        if options.get("transB"):
            sources[product] = weight
            turned = numpy_helper.to_array(weights[weight]).T
            weight = f"{out}/weight"
            graph.initializer.append(numpy_helper.from_array(turned.copy(), weight))
        nodes.append(helper.make_node("MatMul", [node.input[0], weight], [product], name=node.name))
        if len(node.input) > 2:
            nodes.append(helper.make_node("Add", [product, node.input[2]], [out], name=f"{node.name}/bias"))
    del graph.node[:]
    graph.node.extend(nodes)
    return sources


def _gate_products(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the nodes between a gate and what its sublayer reads: hidden layers of gates."""
    makers = {output: node for node in graph.node for output in node.output}
    seen: set[str] = set()
    waiting = [node.input[_GATE_INPUT] for node in graph.node if node.domain == DOMAIN and node.op_type in REWRITES]
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.domain != DOMAIN and node.name not in seen:
            seen.add(node.name)
            waiting += node.input
    return seen


def _products(graph: onnx.GraphProto, heads: Mapping[str, str], bits: int) -> dict[tuple[int, int], set[str]]:
    """Return the names of the products to quantise, by their bits and the size of their blocks."""
    rows = {tensor.name: tensor.dims[0] for tensor in graph.initializer if len(tensor.dims) == 2}
    embeddings = {node.input[0] for node in graph.node if node.op_type == "Gather"}
    kept = _gate_products(graph)
    found: dict[tuple[int, int], set[str]] = {}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in rows and node.name not in kept:
            own = _EMBEDDING_BITS if heads.get(node.output[0]) in embeddings else bits
            block = next((size for size in _BLOCKS[own] if rows[node.input[1]] % size == 0), _BLOCKS[own][-1])
            found.setdefault((own, block), set()).add(node.name)
    return found


def _quantise_products(model: onnx.ModelProto, names: set[str], bits: int, block: int) -> None:
    with _logging_as_it_was():
        # Importing it makes every logger of the process talk.
        from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

        config = DefaultWeightOnlyQuantConfig(
            block_size=block, is_symmetric=True, accuracy_level=_INT8_ACTIVATIONS, bits=bits
        )
        others = [node.name for node in model.graph.node if node.name not in names]
        MatMulNBitsQuantizer(model, bits=bits, nodes_to_exclude=others, algo_config=config).process()


def _quantise_embeddings(graph: onnx.GraphProto, heads: Mapping[str, str]) -> None:
    """Let an embedding that is a head too read the head's quantised weights: the same bytes, a row for each token."""
    values = {tensor.name: tensor for tensor in graph.initializer}
    products = {node.output[0]: node for node in graph.node if node.op_type == "MatMulNBits"}
    nodes = []
    for node in graph.node:
        table = node.input[0] if node.op_type == "Gather" else ""
        product = next((products.get(out) for out, source in heads.items() if source == table), None)
        if product is None:
            nodes.append(node)
            continue
        options = {attribute.name: helper.get_attribute_value(attribute) for attribute in product.attribute}
        if options["K"] % options["block_size"]:  # rows that were filled up are longer than the embedding's
            nodes.append(node)
            continue
        for place, name in ((1, f"{table}/rows"), (2, f"{table}/scales")):
            rows = numpy_helper.to_array(values[product.input[place]]).reshape(options["N"], -1)
            graph.initializer.append(numpy_helper.from_array(rows, name))
        gather = helper.make_node(
            "GatherBlockQuantized",
            [f"{table}/rows", node.input[1], f"{table}/scales"],
            list(node.output),
            name=node.name,
            domain=_MICROSOFT,
            gather_axis=0,
            quantize_axis=1,
            block_size=options["block_size"],
            bits=options["bits"],
        )
        nodes.append(gather)
    del graph.node[:]
    graph.node.extend(nodes)


def _drop_unused_weights(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


@contextmanager
def _logging_as_it_was() -> Iterator[None]:
    """Undo what happens to the root logger, and keep a line for every node out of the log."""
    root = logging.getLogger()
    handlers, level, disabled = root.handlers[:], root.level, logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.disable(disabled)
