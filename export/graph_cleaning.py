"""What torch's exporter leaves behind, removed: notes, constant arithmetic, casts to the same type.

onnxscript's whole optimiser takes minutes on SDXL's UNet, most of it in rewrite rules that find
nothing there. These passes take seconds and leave the same operators.
"""

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants

TRANSPOSED = "lightfill.transposed"
"""Metadata of a weight input: the permutation its checkpoint tensor is stored under, "1,0"."""


def clean(model: ir.Model, protected: set[str]) -> None:
    """Fold, deduplicate and type the graph in place; inputs not `protected` are weights."""
    _strip_notes(model)
    fold_constants(model, onnx_shape_inference=False)
    _drop_unused(model)
    common.ShapeInferencePass()(model)
    _resolve_casts_like(model.graph)
    _drop_unused(model)
    weights = [value for value in model.graph.inputs if value.name not in protected]
    for weight in weights:
        _fold_into_weight(weight)
    fold_constants(model, onnx_shape_inference=False)
    _drop_unused(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.DeduplicateInitializersPass()(model)
    common.TopologicalSortPass()(model)
    _strip_notes(model)
    _name_afresh(model.graph, protected)


def _drop_unused(model: ir.Model) -> None:
    for tidy in (
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
    ):
        tidy(model)


def _strip_notes(model: ir.Model) -> None:
    """Drop notes: the tracer's name files of this machine, the folding's what is gone."""
    model.doc_string = model.graph.doc_string = None
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.doc_string = None
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.initializers.values()]:
        ours = {k: v for k, v in value.metadata_props.items() if k == TRANSPOSED}
        value.metadata_props.clear()
        value.metadata_props.update(ours)


def _resolve_casts_like(graph: ir.Graph) -> None:
    """CastLike to the type a value already has is dropped; any other becomes a plain Cast."""
    for node in [node for node in graph if node.op_type == "CastLike"]:
        source, like = node.inputs
        if source is None or like is None or like.dtype is None:
            continue  # the contract check reports what stays untyped
        if source.dtype == like.dtype:
            replacement = source
        else:
            cast = ir.node("Cast", [source], attributes={"to": like.dtype})
            cast.outputs[0].type, cast.outputs[0].shape = like.type, source.shape
            graph.insert_before(node, cast)
            replacement = cast.outputs[0]
        ir.convenience.replace_all_uses_with(node.outputs[0], replacement)
        graph.remove(node, safe=True)


def _fold_into_weight(weight: ir.Value) -> None:
    """Let a weight be stored as its only users want it: transposed, or with axes of length 1."""
    users = [node for node, _ in weight.uses()]
    if not users or weight.shape is None:
        return
    permutations = [_permutation(node) for node in users]
    if permutations[0] is not None and all(p == permutations[0] for p in permutations):
        permutation = permutations[0]
        weight.shape = ir.Shape([weight.shape[axis] for axis in permutation])
        weight.metadata_props[TRANSPOSED] = ",".join(str(axis) for axis in permutation)
        _bypass(users, weight)
    elif len(users) == 1 and users[0].op_type == "Unsqueeze" and users[0].outputs[0].shape:
        weight.shape = users[0].outputs[0].shape
        _bypass(users, weight)


def _permutation(node: ir.Node) -> tuple[int, ...] | None:
    if node.op_type != "Transpose":
        return None
    return tuple(node.attributes["perm"].as_ints())


def _bypass(users: list[ir.Node], weight: ir.Value) -> None:
    for node in users:
        ir.convenience.replace_all_uses_with(node.outputs[0], weight)
        if node.graph is not None:
            node.graph.remove(node, safe=True)


def _name_afresh(graph: ir.Graph, protected: set[str]) -> None:
    """Short names that depend on nothing but the graph's order."""
    kept = protected | {value.name for value in graph.outputs}
    for number, node in enumerate(graph):
        node.name = f"{node.op_type}_{number}"
        for index, value in enumerate(node.outputs):
            if value.name not in kept:
                value.name = f"{node.name}.{index}" if index else f"{node.name}.out"
    for number, (name, value) in enumerate(list(graph.initializers.items())):
        del graph.initializers[name]
        value.name = f"constant_{number}"
        graph.initializers[value.name] = value
