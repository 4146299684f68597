"""One matrix product as an ONNX model, to measure what a runtime's own product can do."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

_OPSET, _IR_VERSION = 20, 10  # what every ONNX Runtime since 1.18 reads


def matmul_graph(edge: int) -> bytes:
    """`left` (edge, edge) float32 times constant ones: a weight, as a runtime would pack it."""
    weight = numpy_helper.from_array(np.ones((edge, edge), np.float32), "right")
    value = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [edge, edge])
        for name in ("left", "product")
    ]
    node = helper.make_node("MatMul", ["left", "right"], ["product"])
    graph = helper.make_graph([node], "product", value[:1], value[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = _IR_VERSION
    return bytes(model.SerializeToString())
