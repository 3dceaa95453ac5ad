"""A folder with a tokenizer and an ONNX graph, run by onnxruntime; the bundled MiniLM is such a folder.

Every text runs through the graph alone. Padding a batch would make a vector depend on the texts beside it:
dynamic quantisation takes one scale for all activations of a run. Many texts are spread over the usable
cores instead, one text a core, which costs some of the throughput of batches and keeps vectors exact.

A lone text is shared by two cores, which takes a third less time on an idle machine; as soon as texts come at
once, or the machine is busy, each has a core for itself. Both give the same bytes.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from semroute.encoders.base import EncoderIdentity, Kind, KnownIdentity, clip, unit_rows, usable_cores
from semroute.encoders.folder import CHARS_PER_TOKEN, folder_digest, max_tokens, read_json, require_folder
from semroute.errors import EncoderUnavailable, EncodingFailed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession, SessionOptions
    from tokenizers import Tokenizer

    from semroute.encoders.base import Vectors

    _Run: TypeAlias = Callable[[str, dict[str, NDArray[np.integer[Any]]]], NDArray[np.floating]]

Pooling = Literal["mean", "cls"]

_PARALLEL_FROM = 8
_TOKENS_OF_OVERHEAD = 4
_TEXTS_ON_ONE_CORE = 256
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_PROMPT_NAMES: dict[Kind, tuple[str, ...]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}
_POOLINGS: dict[str, Pooling] = {
    "": "mean",
    "mean": "mean",
    "mean_tokens": "mean",
    "cls": "cls",
    "cls_token": "cls",
}
_KNOWN_MODULES = ("_Transformer", "_Pooling", "_Normalize")
_SATURATION_PROBE = Path(__file__).parent / "assets" / "saturation.onnx"


class OnnxEncoder:
    """Vectors from `model.onnx` (or `onnx/model.onnx`) and `tokenizer.json` in `folder`.

    The graph takes `input_ids` and, when it declares them, `attention_mask` and `token_type_ids`. A 2-D
    output, `sentence_embedding` before others, is the vector; otherwise a 3-D output is pooled as
    `1_Pooling/config.json` says, by the mean without that file. Weights in a file of their own must lie in
    `folder`; onnxruntime checks that from 1.24.1 on. Safe to use from several threads. Raises
    EncoderUnavailable when the folder cannot be used.
    """

    def __init__(self, folder: Path, *, name: str, revision: str | None = None) -> None:
        self._name = name
        require_folder(folder, name=name)
        self._settings = OnnxSettings.read(folder, name=name)
        self._tokenizer = _open_tokenizer(folder / "tokenizer.json", self._settings.max_tokens, name=name)
        self._graph = _Graph(_model_file(folder, name=name), name=name)
        self._inputs = _inputs(self._graph.session, name=name)
        self._output = _output(self._graph.session, self._settings, name=name)
        self._identity = EncoderIdentity(
            name=name,
            revision=revision or folder_digest(folder, name=name),
            dim=self._measured_dim(),
            preprocessing=self._settings.preprocessing,
        )

    @property
    def identity(self) -> EncoderIdentity:
        """The name as given; the revision is the digest of the folder unless one was given."""
        return self._identity

    def encode(self, texts: Sequence[str], *, kind: Kind) -> Vectors:
        """Embed `texts`: shape (len(texts), dim), float32, C-contiguous, rows of length 1.

        Raises EncodingFailed.
        """
        import numpy as np

        raw = np.empty((len(texts), self._identity.dim), dtype=np.float32)

        def fill(row: int, run: _Run = self._graph.run) -> None:
            raw[row] = self._embed(texts[row], kind, run)

        if len(texts) < _PARALLEL_FROM:
            for row in range(len(texts)):
                fill(row)
        else:
            _on_every_core(partial(fill, run=self._graph.run_on_one_core), len(texts))
        return unit_rows(raw, name=self._name)

    def _measured_dim(self) -> int:
        try:
            return len(self._embed("a", "document", self._graph.run))
        except EncodingFailed as error:
            raise EncoderUnavailable(str(error)) from error

    def _embed(self, text: str, kind: Kind, run: _Run) -> NDArray[np.floating]:
        """One text through the graph: shape (dim,), not yet of length 1."""
        import numpy as np

        ids = self._tokens(self._settings.prompts[kind] + clip(text, self._settings.max_chars))
        feed = {
            "input_ids": ids,
            "attention_mask": [1] * len(ids),
            "token_type_ids": [0] * len(ids),
        }
        answer = run(self._output, {key: np.array([feed[key]], dtype) for key, dtype in self._inputs.items()})
        return _pooled(answer[0], self._settings.pooling)

    def _tokens(self, text: str) -> list[int]:
        try:
            ids: list[int] = self._tokenizer.encode(text).ids
        except Exception as error:  # the library raises nothing narrower
            raise EncodingFailed(f"encoder {self._name}: its tokenizer failed on a text") from error
        if not ids:
            raise EncodingFailed(f"encoder {self._name}: its tokenizer makes no token of a text")
        return ids


class _Pace:
    """Whether a second core still helps: on a busy machine two cores wait for each other.

    Compares the recent time a token with the best seen, and when it has doubled sends the next texts to one
    core before it tries two again. The best fades slowly, for a machine that has become slower for good.
    """

    def __init__(self) -> None:
        self._best = math.inf
        self._recent = 0.0
        self._on_one_core = 0

    def wants_one_core(self) -> bool:
        """Whether the next text should run on one core. Not exact under threads, and need not be."""
        if self._on_one_core > 0:
            self._on_one_core -= 1
            return True
        return False

    def learn(self, seconds: float, tokens: int) -> None:
        """Take the time that a text of `tokens` took on two cores."""
        pace = seconds / (tokens + _TOKENS_OF_OVERHEAD)
        self._best = min(pace, self._best * 1.001)
        self._recent += 0.2 * (pace - self._recent)
        if self._recent > 2.0 * self._best:
            self._on_one_core, self._recent = _TEXTS_ON_ONE_CORE, self._best


class _Graph:
    """One graph, run on two cores while one text comes at a time, on one core a text otherwise."""

    def __init__(self, model: Path, *, name: str) -> None:
        self._model = model
        self._name = name
        self._cores = 1 if os.environ.get("SEMROUTE_THREADS") == "1" else min(2, usable_cores())
        self.session = _open_session(model, name=name, cores=self._cores)
        self._one_core_session = self.session if self._cores == 1 else None
        self._pace = _Pace()
        self._own_by_this_process()

    def run(self, output: str, feed: dict[str, NDArray[np.integer[Any]]]) -> NDArray[np.floating]:
        """The `output` for `feed`, on two cores if nobody else runs the graph. Raises EncodingFailed."""
        self._notice_fork()
        if self._cores == 1 or self._pace.wants_one_core() or not self._alone.acquire(blocking=False):
            return self.run_on_one_core(output, feed)
        try:
            started = time.perf_counter()
            answer = self._run(self.session, output, feed)
            self._pace.learn(time.perf_counter() - started, feed["input_ids"].size)
            return answer
        finally:
            self._alone.release()

    def run_on_one_core(self, output: str, feed: dict[str, NDArray[np.integer[Any]]]) -> NDArray[np.floating]:
        """The `output` for `feed`, on the calling thread. Raises EncodingFailed."""
        self._notice_fork()
        if self._one_core_session is None:
            with self._opening:
                if self._one_core_session is None:
                    self._one_core_session = _open_session(self._model, name=self._name, cores=1)
        return self._run(self._one_core_session, output, feed)

    def _notice_fork(self) -> None:
        # The threads of the session do not come along when a process forks, and a lock may have been held:
        # waiting for either would never end. The process is claimed last, when all is safe.
        if os.getpid() != self._pid:
            self._cores = 1
            self._own_by_this_process()

    def _own_by_this_process(self) -> None:
        self._alone, self._opening = threading.Lock(), threading.Lock()
        self._pid = os.getpid()

    def _run(
        self, session: InferenceSession, output: str, feed: dict[str, NDArray[np.integer[Any]]]
    ) -> NDArray[np.floating]:
        try:
            answer: NDArray[np.floating] = session.run([output], feed)[0]
        except _runtime_errors() as error:
            raise EncodingFailed(f"encoder {self._name}: the graph failed: {error}") from error
        return answer


@dataclass(frozen=True)
class OnnxSettings:
    """What the JSON files of a model folder say about the steps before and after the graph.

    `pooling` is None when they ask for something other than the mean or the first token.
    """

    max_tokens: int
    pooling: Pooling | None
    prompts: Mapping[Kind, str]

    @classmethod
    def read(cls, folder: Path, *, name: str) -> OnnxSettings:
        """Read the settings in `folder`; a missing file means its defaults. Raises EncoderUnavailable."""
        return cls(
            max_tokens=max_tokens(folder, name=name),
            pooling=_pooling(folder, name=name),
            prompts=_prompts(folder, name=name),
        )

    @property
    def max_chars(self) -> int:
        """Longer text is cut to this many characters before it is tokenised."""
        return CHARS_PER_TOKEN * self.max_tokens

    @property
    def preprocessing(self) -> str:
        """These settings as one line for `EncoderIdentity`; the rest lies in the files of the folder."""
        return f"clip={self.max_chars} tokens={self.max_tokens}"


def identify_folder(folder: Path, *, name: str) -> KnownIdentity:
    """All but the length of the vectors of `folder`, without loading its graph; raises EncoderUnavailable."""
    require_folder(folder, name=name)
    _model_file(folder, name=name)
    preprocessing = OnnxSettings.read(folder, name=name).preprocessing
    return KnownIdentity(name, folder_digest(folder, name=name), None, preprocessing)


@cache
def runtime_saturates() -> bool:
    """Whether int8 products lose their largest sums on this processor.

    x86-64 without VNNI multiplies u8 by s8 in pairs whose 16-bit sum saturates. The bundled graph then
    still points the right way (tools/compare_processors.py: mean cosine 0.99 with its own vectors
    elsewhere), but an index built on one machine and searched on another would lose accuracy. Asking the
    runtime itself, with one small product, holds for every processor, operating system and version.
    """
    import numpy as np

    session = _session(_SATURATION_PROBE, _session_options(), name="onnxruntime")
    left = np.full((4, 64), 255, dtype=np.uint8)
    (product,) = session.run(None, {"left": left})
    return bool((product != 64 * 255 * 127).any())


def _on_every_core(work: Callable[[int], None], count: int) -> None:
    """Call `work` with 0 to `count` - 1; the runtime lets go of the interpreter while it computes."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(usable_cores(), "semroute-onnx") as pool:
        for _ in pool.map(work, range(count)):
            pass


def _open_session(model: Path, *, name: str, cores: int) -> InferenceSession:
    options = _session_options()
    options.intra_op_num_threads = cores
    # How long the second core waits, busy, for the next step: across the gap between two prompts of a busy
    # server, and not for ever.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "1000")
    if runtime_saturates():
        # Exact u8 by u8 kernels. With VNNI they would cost time for the same vectors.
        options.add_session_config_entry("session.x64quantprecision", "1")
    return _session(model, options, name=name)


def _session_options() -> SessionOptions:
    from onnxruntime import SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # An arena keeps the memory of the longest text for ever, once a thread; it does not save time here.
    options.enable_cpu_mem_arena = False
    return options


def _session(model: Path, options: SessionOptions, *, name: str) -> InferenceSession:
    from onnxruntime import InferenceSession

    try:
        return InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except _runtime_errors() as error:
        raise EncoderUnavailable(
            f"encoder {name}: onnxruntime cannot load {model}: {error}; fetch or export it again"
        ) from error


def _runtime_errors() -> tuple[type[Exception], ...]:
    """Every error of onnxruntime; they have no common base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    errors: tuple[type[Exception], ...] = (
        state.EPFail,
        state.EngineError,
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoModel,
        state.NoSuchFile,
        state.NotImplemented,
        state.RuntimeException,
    )
    return errors


def _model_file(folder: Path, *, name: str) -> Path:
    candidates = (folder / "model.onnx", folder / "onnx" / "model.onnx")
    for file in candidates:
        if file.is_file():
            return file
    raise EncoderUnavailable(
        f"encoder {name}: no model.onnx in {folder}; export the model there (optimum-cli export onnx)"
    )


def _open_tokenizer(file: Path, max_tokens: int, *, name: str) -> Tokenizer:
    from tokenizers import Tokenizer

    if not file.is_file():
        raise EncoderUnavailable(f"encoder {name}: no {file}; copy the tokenizer.json of the model there")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise EncoderUnavailable(f"encoder {name}: cannot read {file}: {error}; fetch it again") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def _inputs(session: InferenceSession, *, name: str) -> dict[str, type[np.integer[Any]]]:
    import numpy as np

    declared = {node.name: node.type for node in session.get_inputs()}
    foreign = sorted(set(declared) - set(_INPUTS))
    if foreign or "input_ids" not in declared:
        raise EncoderUnavailable(
            f"encoder {name}: model.onnx has inputs {', '.join(declared)}; expected input_ids and at most "
            "attention_mask and token_type_ids; export it for feature extraction"
        )
    return {key: np.int32 if kind == "tensor(int32)" else np.int64 for key, kind in declared.items()}


def _output(session: InferenceSession, settings: OnnxSettings, *, name: str) -> str:
    nodes = sorted(
        session.get_outputs(), key=lambda node: (node.name != "sentence_embedding", len(node.shape))
    )
    usable = [node for node in nodes if len(node.shape) in {2, 3}]
    if not usable:
        raise EncoderUnavailable(
            f"encoder {name}: model.onnx has no output of shape (texts, dim) or (texts, tokens, dim); "
            "export it for feature extraction"
        )
    if len(usable[0].shape) == 3 and settings.pooling is None:
        raise EncoderUnavailable(
            f"encoder {name}: model.onnx ends before the pooling, and the folder asks for more than the mean "
            "or the first token; export it with its pooling, as sentence_embedding"
        )
    return str(usable[0].name)


def _pooled(answer: NDArray[np.floating], pooling: Pooling | None) -> NDArray[np.floating]:
    """(dim,) as it is, (tokens, dim) pooled to (dim,)."""
    if answer.ndim == 1:
        return answer
    vector: NDArray[np.floating] = answer[0] if pooling == "cls" else answer.mean(axis=0)
    return vector


def _pooling(folder: Path, *, name: str) -> Pooling | None:
    config = read_json(folder / "1_Pooling" / "config.json", name=name)
    if not config.get("include_prompt", True) or _has_further_modules(folder):
        return None
    return _POOLINGS.get(_asked_pooling(config))


def _asked_pooling(config: Mapping[str, Any]) -> str:
    mode = config.get("pooling_mode")
    if mode is None:
        prefix = "pooling_mode_"
        mode = [
            key.removeprefix(prefix) for key, on in config.items() if key.startswith(prefix) and on is True
        ]
    return mode if isinstance(mode, str) else "+".join(map(str, mode))


def _has_further_modules(folder: Path) -> bool:
    """Whether layers follow the pooling, which a graph that ends before the pooling does not hold."""
    return any(path.is_dir() and not path.name.endswith(_KNOWN_MODULES) for path in folder.glob("[0-9]_*"))


def _prompts(folder: Path, *, name: str) -> dict[Kind, str]:
    config = read_json(folder / "config_sentence_transformers.json", name=name)
    prompts = config.get("prompts") or {}
    texts = prompts.values() if isinstance(prompts, dict) else (None,)
    if not all(isinstance(text, str) for text in texts):
        file = folder / "config_sentence_transformers.json"
        raise EncoderUnavailable(f"encoder {name}: `prompts` in {file} must map names to texts")
    default = prompts.get(str(config.get("default_prompt_name")), "")
    return {
        kind: next((prompts[key] for key in keys if prompts.get(key)), default)
        for kind, keys in _PROMPT_NAMES.items()
    }
