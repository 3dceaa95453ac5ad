"""Make the bundled encoder `minilm`: all-MiniLM-L6-v2 as an int8 ONNX graph.

    pip install -r tools/requirements.txt
    python tools/make_minilm.py [--out FOLDER] [--prompts FILE.jsonl]

Writes the same bytes every time. With --prompts it prints how close the graph is to sentence-transformers.

The graph is written by hand rather than exported, because each of these was measured to matter:
- one text a run, so it needs no attention mask;
- DynamicQuantizeMatMul without a zero point of the weights (given one, onnxruntime takes a slower path),
  signed weights, one scale per output channel;
- query, key and value in one product, then the MultiHeadAttention contrib operator;
- Add and LayerNormalization; the fused SkipLayerNormalization is slower;
- the token embeddings as int8 with one scale per token, which quarters the largest tensor;
- the sum over the tokens instead of the mean: both point the same way, and the output has length 1.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from source import ASSETS, json_bytes, model_folder, quantize, read_prompts, write_asset

MICROSOFT = "com.microsoft"
LAYERS = 6
HEADS = 12
DIM = 384
MAX_TOKENS = 256
EPSILON = 1e-12
IR_VERSION = 10
OPSET = 18

Weights = dict[str, NDArray[np.float32]]


class GraphBuilder:
    """Collects nodes and initialisers; every method returns the name of what it added."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """Add an initialiser."""
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, op: str, inputs: list[str], domain: str = "", **attributes: Any) -> str:
        """Add a node with one output."""
        return self.nodes_out(op, inputs, 1, domain, **attributes)[0]

    def nodes_out(
        self, op: str, inputs: list[str], count: int, domain: str = "", **attributes: Any
    ) -> list[str]:
        """Add a node with `count` outputs."""
        outputs = [f"{op}_{len(self.nodes)}_{number}" for number in range(count)]
        self.nodes.append(helper.make_node(op, inputs, outputs, domain=domain, **attributes))
        return outputs

    def linear(self, x: str, name: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> str:
        """The product with int8 weights plus `bias`: x @ weight.T + bias, one scale per output channel."""
        integers, scales = quantize(weight.T.astype(np.float32), axis=0)
        inputs = [
            x,
            self.constant(f"{name}.weight", integers),
            self.constant(f"{name}.scale", scales.reshape(-1)),
            "",
            self.constant(f"{name}.bias", bias),
        ]
        return self.node("DynamicQuantizeMatMul", inputs, MICROSOFT)

    def layer_norm(self, x: str, name: str, weights: Weights) -> str:
        """LayerNorm over the last axis with the weights called `name`."""
        gain = self.constant(f"{name}.weight", weights[f"{name}.weight"])
        bias = self.constant(f"{name}.bias", weights[f"{name}.bias"])
        return self.node("LayerNormalization", [x, gain, bias], axis=-1, epsilon=EPSILON)


def main() -> None:
    """Write the asset and say what it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ASSETS / "minilm")
    parser.add_argument("--prompts", type=Path, help="JSONL with a field prompt, to compare on")
    arguments = parser.parse_args()
    source = model_folder()
    files = {
        "model.onnx": minilm_graph(source),
        "tokenizer.json": bare_tokenizer(source),
        "sentence_bert_config.json": json_bytes({"max_seq_length": MAX_TOKENS}),
    }
    print(write_asset(arguments.out, files, revision_of=("model.onnx", "tokenizer.json"), dim=DIM))
    (arguments.out.parent / "saturation.onnx").write_bytes(saturation_probe())
    if arguments.prompts:
        compare(source, arguments.out, read_prompts(arguments.prompts))


def minilm_graph(source: Path) -> bytes:
    """The serialised graph: input_ids (1, tokens) int64 -> sentence_embedding (1, 384) float32."""
    from safetensors.numpy import load_file

    weights: Weights = load_file(source / "model.safetensors")
    graph = GraphBuilder()
    x = _embeddings(graph, weights)
    for layer in range(LAYERS):
        x = _transformer_layer(graph, weights, f"encoder.layer.{layer}", x)
    total = graph.node("ReduceSum", [x, graph.constant("tokens_axis", np.array([1], np.int64))], keepdims=0)
    graph.nodes.append(helper.make_node("LpNormalization", [total], ["sentence_embedding"], axis=-1, p=2))
    return _serialised(
        graph,
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "tokens"]),
        helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, [1, DIM]),
    )


def _embeddings(graph: GraphBuilder, weights: Weights) -> str:
    integers, scales = quantize(weights["embeddings.word_embeddings.weight"], axis=1)
    tokens = graph.node("Gather", [graph.constant("embeddings.token.weight", integers), "input_ids"])
    scale = graph.node("Gather", [graph.constant("embeddings.token.scale", scales), "input_ids"])
    words = graph.node("Mul", [graph.node("Cast", [tokens], to=TensorProto.FLOAT), scale])
    places = graph.constant(
        "embeddings.position.weight",
        weights["embeddings.position_embeddings.weight"]
        + weights["embeddings.token_type_embeddings.weight"][0],
    )
    length = graph.node("Shape", ["input_ids"], start=1, end=2)
    start = graph.constant("first", np.array([0], np.int64))
    axis = graph.constant("position_axis", np.array([0], np.int64))
    positions = graph.node("Slice", [places, start, length, axis])
    return graph.layer_norm(graph.node("Add", [words, positions]), "embeddings.LayerNorm", weights)


def _transformer_layer(graph: GraphBuilder, weights: Weights, name: str, x: str) -> str:
    attended = _attention(graph, weights, f"{name}.attention", x)
    x = graph.layer_norm(graph.node("Add", [attended, x]), f"{name}.attention.output.LayerNorm", weights)
    hidden = _dense(graph, weights, f"{name}.intermediate.dense", x)
    expanded = _dense(graph, weights, f"{name}.output.dense", graph.node("Gelu", [hidden], MICROSOFT))
    return graph.layer_norm(graph.node("Add", [expanded, x]), f"{name}.output.LayerNorm", weights)


def _attention(graph: GraphBuilder, weights: Weights, name: str, x: str) -> str:
    parts = [f"{name}.self.{part}" for part in ("query", "key", "value")]
    weight = np.concatenate([weights[f"{part}.weight"] for part in parts])
    bias = np.concatenate([weights[f"{part}.bias"] for part in parts])
    joined = graph.linear(x, f"{name}.self", weight, bias)
    split = graph.nodes_out("Split", [joined], 3, axis=-1, num_outputs=3)
    mixed = graph.node("MultiHeadAttention", split, MICROSOFT, num_heads=HEADS)
    return _dense(graph, weights, f"{name}.output.dense", mixed)


def _dense(graph: GraphBuilder, weights: Weights, name: str, x: str) -> str:
    return graph.linear(x, name, weights[f"{name}.weight"], weights[f"{name}.bias"])


def saturation_probe() -> bytes:
    """One u8 by s8 product whose exact result shows whether a processor saturates 16-bit sums."""
    graph = GraphBuilder()
    right = graph.constant("right", np.full((64, 32), 127, np.int8))
    graph.nodes.append(helper.make_node("MatMulInteger", ["left", right], ["product"]))
    return _serialised(
        graph,
        helper.make_tensor_value_info("left", TensorProto.UINT8, [4, 64]),
        helper.make_tensor_value_info("product", TensorProto.INT32, [4, 32]),
    )


def _serialised(graph: GraphBuilder, inputs: onnx.ValueInfoProto, outputs: onnx.ValueInfoProto) -> bytes:
    proto = helper.make_graph(graph.nodes, "semroute", [inputs], [outputs], graph.initializers)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(proto, opset_imports=opsets, ir_version=IR_VERSION, producer_name="semroute")
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def bare_tokenizer(source: Path) -> bytes:
    """tokenizer.json without padding and truncation, which the encoder sets itself."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return str(tokenizer.to_str()).encode()


def compare(source: Path, folder: Path, prompts: list[str]) -> None:
    """Print the cosine between the vectors of `folder` and those of sentence-transformers."""
    sys.path.insert(0, str(ASSETS.parent.parent.parent))
    from sentence_transformers import SentenceTransformer

    from semroute.encoders.onnx import OnnxEncoder

    expected = SentenceTransformer(str(source)).encode(prompts, normalize_embeddings=True)
    cosine = (OnnxEncoder(folder, name="minilm").encode(prompts, kind="query") * expected).sum(axis=1)
    print(f"cosine over {len(prompts)} prompts: mean {cosine.mean():.5f}, min {cosine.min():.4f}")


if __name__ == "__main__":
    main()
