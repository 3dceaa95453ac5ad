"""RouteIndex: the utterances of a config as vectors in FAISS, and what was fitted on them.

A `Config` and an `Encoder` become a `RouteIndex` by `build`; `save`, `load` and `check` tie it to a folder.
An index is never changed once it exists: a new build makes a new one, so searching needs no lock.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import faiss
import numpy as np

from semroute import artifact, calibrate
from semroute.artifact import Manifest
from semroute.calibrate import Examples
from semroute.config import Config
from semroute.errors import ArtifactCorrupt, ArtifactMismatch, ConfigError, EncodingFailed
from semroute.freshness import config_from_bytes, fingerprint, made
from semroute.vote import Evidence, Fitted, Head, LeftOut, head_view

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from semroute.encoders.base import Encoder, EncoderIdentity, Kind, Vectors

Progress = Callable[[int, int], None]
"""Called with (steps done so far, steps to do): texts embedded, or heads fitted."""

FLAT_UP_TO = 4_096
"""Up to this many utterances an exhaustive search is as fast as a graph and exact (bench/faiss_kinds.py)."""

_HNSW_NEIGHBORS, _HNSW_BUILD_WIDTH, _HNSW_SEARCH_WIDTH = 16, 80, 128
_CHUNK = 512  # texts between two steps of the progress bar
_UNIT_TOLERANCE = 2e-2  # of the squared length of a unit vector


@dataclass(frozen=True, slots=True)
class Entry:
    """One indexed text and the place of its route in the config."""

    route: int
    text: str


class Found(NamedTuple):
    """The nearest utterances of a query, nearest first.

    similarities: cosines, rounded to six digits, below which float32 says nothing.
    rows: the row of each, an index into `RouteIndex.entries`.
    """

    similarities: list[float]
    rows: list[int]


@dataclass(frozen=True, slots=True, eq=False)
class RouteIndex:
    """The vectors of all utterances, searchable, with the config they came from.

    entries: the indexed texts, in the order of the rows of `vectors`.
    routes: (n,) int64, the route of each row as an index into `config.routes`.
    negatives, labels: the vectors of `config.settings.default.heldout`, and of the names and descriptions
        of the routes, each (m, dim); kept so that a rebuild need not embed them again.
    """

    config: Config
    manifest: Manifest
    entries: tuple[Entry, ...]
    routes: NDArray[np.int64]
    vectors: faiss.Index
    fitted: Fitted
    negatives: Vectors
    labels: Vectors

    @property
    def fingerprint(self) -> str:
        """Digest of everything this index was built from."""
        return self.manifest.fingerprint

    @property
    def route_names(self) -> tuple[str, ...]:
        """Every route, in the order of the config."""
        return tuple(route.name for route in self.config.routes)

    def search(self, queries: Vectors, k: int, only: frozenset[int] | None = None) -> list[Found | None]:
        """The `k` nearest utterances of each query, or all there are.

        queries: (n, dim) float32, C-contiguous, unit rows.
        only: the routes (as indices into `config.routes`) whose utterances may be found; None means all.

        Returns what each query found; None where the query is no unit vector (zero, infinite or NaN).
        Raises EncodingFailed for another kind of array.
        """
        # FAISS guards these by assert only, and reads out of bounds under `python -O`.
        check_array(queries, self.manifest.encoder.dim)
        usable = _is_unit(queries)
        if len(self.entries) == 0:
            return [Found([], []) if good else None for good in usable]
        store, parameters = self._store_and_parameters(only)
        similarities, rows = store.search(queries, min(k, len(self.entries)), params=parameters)
        cosines = np.round(similarities.astype(np.float64), 6).tolist()
        return [
            _without_padding(found, ids) if good else None
            for good, found, ids in zip(usable, cosines, rows.tolist(), strict=True)
        ]

    def in_order(self) -> NDArray[np.int64]:
        """The rows in the order of the config, shape (n,): a graph that grew keeps its old rows first."""
        return _in_order(self.config, self.entries)

    def reconstruct(self, rows: NDArray[np.int64] | None = None) -> Vectors:
        """The stored vectors, or those of `rows` (each a row of `entries`), shape (n, dim)."""
        if len(self.entries) == 0:
            return np.empty((0, self.manifest.encoder.dim), np.float32)
        store: Any = self.vectors
        stored: Vectors = (
            store.reconstruct_n(0, len(self.entries)) if rows is None else store.reconstruct_batch(rows)
        )
        return stored

    def _store_and_parameters(self, only: frozenset[int] | None) -> tuple[Any, Any]:
        store: Any = self.vectors
        if only is None:
            return store, None
        if isinstance(store, faiss.IndexHNSW):
            # A graph walked past forbidden nodes may lose its way: its storage is searched exhaustively.
            store = faiss.downcast_index(store.storage)
        parameters: Any = faiss.SearchParameters
        allowed = np.flatnonzero(np.isin(self.routes, list(only)))
        return store, parameters(sel=faiss.IDSelectorBatch(allowed))


@dataclass(frozen=True, slots=True)
class BuildReport:
    """A built index and what the build did: how many texts were embedded and how many vectors reused."""

    index: RouteIndex
    embedded: int
    reused: int


def build(
    config: Config,
    encoder: Encoder,
    *,
    words: Encoder | None = None,
    previous: RouteIndex | None = None,
    progress: Progress | None = None,
    fitting: Progress | None = None,
) -> BuildReport:
    """Embed the utterances of `config` (`progress` hears of it) and fit on them (`fitting` does).

    words: the token table whose vectors the head sees beside those of `encoder`, see `encoders.open_words`.

    Vectors of texts that `previous` holds, made by an encoder of the same identity, are taken from there.

    Raises EncoderError when the encoder fails or gives something that is no embedding.
    """
    identity = encoder.identity
    if previous is not None and previous.manifest.encoder != _encoder_record(identity):
        previous = None
    entries = _entries(config, previous)
    vectors, embedded, reused = _vectors_of(entries, encoder, previous, progress)
    routes = np.array([entry.route for entry in entries], np.int64)
    heldout = config.settings.default.heldout
    negatives = _side_vectors(heldout, "query", encoder, _known_negatives(previous))
    named = _label_entries(config)
    labels = _side_vectors([entry.text for entry in named], "document", encoder, _known_labels(previous))
    share = config.settings.vote.blend
    fitted = _fit(
        *(config, entries, vectors, labels, negatives, words),
        [None if share == "auto" else share],
        fitting,
    )[0]
    store, record = _vector_store(vectors, entries, config, previous)
    index = RouteIndex(
        config=config,
        manifest=_manifest(config, identity, len(entries), record, _fitted_record(fitted, words)),
        entries=entries,
        routes=routes,
        vectors=store,
        fitted=fitted,
        negatives=negatives,
        labels=labels,
    )
    return BuildReport(index=index, embedded=embedded, reused=reused)


def refit(
    index: RouteIndex, words: Encoder | None, blends: Sequence[float], fitting: Progress | None = None
) -> list[RouteIndex]:
    """`index` as it would be with each of these values of `vote.blend`, to be measured and not to be saved.

    words: as for `build`. Raises EncoderError.
    """
    found = _fit(
        *(index.config, index.entries, index.reconstruct(), index.labels, index.negatives, words),
        blends,
        fitting,
    )
    return [replace(index, fitted=fitted) for fitted in found]


def save(index: RouteIndex, folder: Path) -> RouteIndex:
    """Store `index` in `folder`, atomically, and return it with the manifest that was written.

    Raises ArtifactNotWritten; what was in the folder before then still stands.
    """
    contents = {
        "config": artifact.canonical_json(index.config.canonical()),
        "utterances": _utterances_to_bytes(index),
        "vectors": faiss.serialize_index(index.vectors).tobytes(),
        "fitted": _fitted_to_bytes(index),
    }
    files = {role: artifact.file_record(role, _SUFFIX[role], data) for role, data in contents.items()}
    manifest = index.manifest.model_copy(update={"files": files})
    artifact.write(folder, manifest, contents)
    return replace(index, manifest=manifest)


def load(folder: Path) -> RouteIndex:
    """Read an index, verified: size, digest, header, type, dimension and counts, before FAISS sees a byte.

    Raises ArtifactMissing, ArtifactCorrupt or ArtifactMismatch.
    """
    manifest, contents = artifact.read(folder)
    missing = sorted(_SUFFIX.keys() - contents.keys())
    if missing:
        raise ArtifactCorrupt(f"{folder / artifact.MANIFEST}: lists no file for {', '.join(missing)}.")
    try:
        config = config_from_bytes(contents["config"])
        entries = _entries_from_bytes(contents["utterances"], config)
        _check_counts(manifest, config, entries)
        _check_store_header(contents["vectors"], manifest)
        fitted, negatives, labels = _fitted_from_bytes(contents["fitted"], manifest, config)
        store = _store_from_bytes(contents["vectors"], manifest)
    except _FORGED as error:
        raise ArtifactCorrupt(
            f"{folder}: its files are intact but do not fit together: {error}. "
            f"Run `{artifact.build_command(folder)}`."
        ) from error
    if not made(config, manifest):
        raise ArtifactMismatch(
            f"{folder}: built by a semroute that reads or fits routes differently. "
            f"Run `{artifact.build_command(folder)}`."
        )
    return RouteIndex(
        config=config,
        manifest=manifest,
        entries=entries,
        routes=np.array([entry.route for entry in entries], np.int64),
        vectors=store,
        fitted=fitted,
        negatives=negatives,
        labels=labels,
    )


def _without_threads() -> None:
    # A forked child has OpenMP's state but none of its threads, and would wait for them for ever.
    faiss.omp_set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_without_threads)


_FORGED = (
    # What files raise that are intact by their digests and yet not what a build writes. FAISS raises
    # RuntimeError, of which RecursionError is one.
    ValueError,
    KeyError,
    TypeError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    struct.error,
    ConfigError,
)
_SUFFIX = {"config": "json", "utterances": "jsonl", "vectors": "faiss", "fitted": "npz"}


def _encoder_record(identity: EncoderIdentity) -> artifact.EncoderRecord:
    return artifact.EncoderRecord(**asdict(identity))


def _entries(config: Config, previous: RouteIndex | None) -> tuple[Entry, ...]:
    """What is indexed: each text of a route once; the description where a route has no utterance.

    In the order of the config, except where a graph can grow from `previous`: then its rows come first.
    """
    entries = _declared_entries(config)
    if previous is None or not _can_grow(len(entries), previous):
        return tuple(entries)
    places = {route.name: place for place, route in enumerate(config.routes)}
    old = [Entry(places.get(previous.route_names[entry.route], -1), entry.text) for entry in previous.entries]
    kept = set(old)
    if not kept <= set(entries):
        return tuple(entries)
    return tuple(old + [entry for entry in entries if entry not in kept])


def _declared_entries(config: Config) -> list[Entry]:
    return [
        Entry(place, text)
        for place, route in enumerate(config.routes)
        for text in dict.fromkeys(route.utterances or (route.description,))
    ]


def _in_order(config: Config, entries: Sequence[Entry]) -> NDArray[np.int64]:
    places = {entry: place for place, entry in enumerate(_declared_entries(config))}
    return np.argsort([places[entry] for entry in entries], kind="stable")


def _can_grow(count: int, previous: RouteIndex) -> bool:
    return isinstance(previous.vectors, faiss.IndexHNSW) and len(previous.entries) <= count


def _vectors_of(
    entries: Sequence[Entry], encoder: Encoder, previous: RouteIndex | None, progress: Progress | None
) -> tuple[Vectors, int, int]:
    """The vectors of `entries`, shape (n, dim); how many texts were embedded, how many vectors reused."""
    vectors = np.empty((len(entries), encoder.identity.dim), np.float32)
    known = _reusable_vectors(previous)
    rows_of: dict[str, list[int]] = {}
    for row, entry in enumerate(entries):
        if entry.text in known:
            vectors[row] = known[entry.text]
        else:
            rows_of.setdefault(entry.text, []).append(row)
    missing = list(rows_of)
    for start in range(0, len(missing), _CHUNK):
        chunk = missing[start : start + _CHUNK]
        for text, vector in zip(chunk, _embed(encoder, chunk, "document"), strict=True):
            vectors[rows_of[text]] = vector
        if progress is not None:
            progress(min(start + _CHUNK, len(missing)), len(missing))
    return vectors, len(missing), len(entries) - sum(map(len, rows_of.values()))


def _reusable_vectors(previous: RouteIndex | None) -> dict[str, Vectors]:
    if previous is None:
        return {}
    stored = previous.reconstruct()
    usable = _is_unit(stored)
    return {entry.text: stored[row] for row, entry in enumerate(previous.entries) if usable[row]}


def _examples(
    vectors: Vectors, routes: NDArray[np.int64], texts: Sequence[str], words: Encoder | None
) -> Examples:
    if words is None:
        return Examples(vectors, routes)
    return Examples(vectors, routes, head_view(vectors, words.encode(texts, kind="document")))


def _fit(
    config: Config,
    entries: Sequence[Entry],
    vectors: Vectors,
    labels: Vectors,
    negatives: Vectors,
    words: Encoder | None,
    blends: Sequence[float | None],
    progress: Progress | None,
) -> list[Fitted]:
    """What is fitted at each of `blends`; see `calibrate.fit_blends`. vectors: (n, dim), of the `entries`."""
    order = _in_order(config, entries)  # whatever the rows are
    declared = [entries[row] for row in order]
    named = _label_entries(config) if len(labels) else []  # format 1 kept none

    def owners(listed: Sequence[Entry]) -> NDArray[np.int64]:
        return np.array([entry.route for entry in listed], np.int64)

    heldout = config.settings.default.heldout
    return calibrate.fit_blends(
        _examples(vectors[order], owners(declared), [entry.text for entry in declared], words),
        _examples(labels, owners(named), [entry.text for entry in named], words),
        _examples(negatives, np.full(len(negatives), -1, np.int64), heldout, words),
        len(config.routes),
        config.settings.vote.neighbors,
        progress,
        blends=blends,
    )


def _label_entries(config: Config) -> list[Entry]:
    """What is said of each route beside its utterances: its name in words, and its description."""
    return [
        Entry(place, text)
        for place, route in enumerate(config.routes)
        for text in dict.fromkeys((_in_words(route.name), route.description))
        if text.strip()
    ]


def _in_words(name: str) -> str:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|[_\-./]+", " ", name)
    return " ".join(spaced.lower().split()) or name


def _side_vectors(
    texts: Sequence[str], kind: Kind, encoder: Encoder, known: Mapping[str, Vectors]
) -> Vectors:
    """The vectors of `texts`, shape (n, dim); those that are not `known` are embedded."""
    missing = [text for text in dict.fromkeys(texts) if text not in known]
    vectors = {**known, **dict(zip(missing, _embed(encoder, missing, kind), strict=True))}
    return np.array([vectors[text] for text in texts], np.float32).reshape(len(texts), encoder.identity.dim)


def _known_negatives(previous: RouteIndex | None) -> dict[str, Vectors]:
    if previous is None:
        return {}
    return dict(zip(previous.config.settings.default.heldout, previous.negatives, strict=True))


def _known_labels(previous: RouteIndex | None) -> dict[str, Vectors]:
    if previous is None or len(previous.labels) == 0:  # format 1 kept none
        return {}
    texts = [entry.text for entry in _label_entries(previous.config)]
    return dict(zip(texts, previous.labels, strict=True))


def _embed(encoder: Encoder, texts: Sequence[str], kind: Kind) -> Vectors:
    """`encoder.encode`, with its promise checked. Raises EncodingFailed."""
    if not texts:
        return np.empty((0, encoder.identity.dim), np.float32)
    vectors = encoder.encode(texts, kind=kind)
    check_array(vectors, encoder.identity.dim)
    if len(vectors) != len(texts):
        raise EncodingFailed(f"The encoder gave {len(vectors)} vectors for {len(texts)} texts.")
    if not all(_is_unit(vectors)):
        raise EncodingFailed("The encoder gave a vector that is not of length 1 (zero, infinite or NaN).")
    return vectors


def check_array(vectors: Vectors, dim: int) -> None:
    """Raise EncodingFailed unless `vectors` is an array of shape (n, dim), float32, C-contiguous."""
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.shape[1] != dim:
        shape = getattr(vectors, "shape", type(vectors).__name__)
        raise EncodingFailed(f"The encoder gave {shape} and must give an array of shape (n, {dim}).")
    if vectors.dtype != np.float32 or not vectors.flags.c_contiguous:
        order = "" if vectors.flags.c_contiguous else " in another memory order"
        raise EncodingFailed(f"The encoder gave {vectors.dtype}{order} and must give C-contiguous float32.")


def _without_padding(similarities: list[float], rows: list[int]) -> Found:
    """FAISS fills up with row -1, which as a Python index would mean the last utterance."""
    if rows[-1] < 0:
        count = rows.index(-1)
        return Found(similarities[:count], rows[:count])
    return Found(similarities, rows)


def _is_unit(vectors: Vectors) -> list[bool]:
    """For each row whether its length is 1; false for zero, infinity and NaN."""
    squares: list[float] = np.einsum("ij,ij->i", vectors, vectors).tolist()
    return [abs(square - 1.0) < _UNIT_TOLERANCE for square in squares]


def _vector_store(
    vectors: Vectors, entries: Sequence[Entry], config: Config, previous: RouteIndex | None
) -> tuple[faiss.Index, artifact.VectorsRecord]:
    if len(entries) <= FLAT_UP_TO:
        flat = faiss.IndexFlatIP(vectors.shape[1])
        flat.add(vectors)
        return flat, _store_record("flat")
    if previous is not None and _grows_from(entries, config, previous):
        # A copy: an index that is being searched must never change.
        graph = faiss.deserialize_index(faiss.serialize_index(previous.vectors))
        graph.add(np.ascontiguousarray(vectors[len(previous.entries) :]))
        return graph, _store_record("hnsw")
    graph = faiss.IndexHNSWFlat(vectors.shape[1], _HNSW_NEIGHBORS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = _HNSW_BUILD_WIDTH
    graph.hnsw.efSearch = _HNSW_SEARCH_WIDTH
    graph.add(vectors)
    return graph, _store_record("hnsw")


def _grows_from(entries: Sequence[Entry], config: Config, previous: RouteIndex) -> bool:
    if not _can_grow(len(entries), previous):
        return False
    names, old_names = tuple(route.name for route in config.routes), previous.route_names
    return all(
        new.text == old.text and names[new.route] == old_names[old.route]
        for new, old in zip(entries, previous.entries, strict=False)
    )


def _store_record(kind: str) -> artifact.VectorsRecord:
    rule = f"exhaustive up to {FLAT_UP_TO} utterances, a graph above"
    return artifact.VectorsRecord(kind=kind, metric="inner_product", dtype="float32", rule=rule)


def _manifest(
    config: Config,
    identity: EncoderIdentity,
    utterances: int,
    record: artifact.VectorsRecord,
    fitted: artifact.FittedRecord,
) -> Manifest:
    return Manifest(
        format=artifact.FORMAT,
        fingerprint=fingerprint(config, identity, fitted.words),
        encoder=_encoder_record(identity),
        counts=_counts(config, utterances),
        vectors=record,
        fitted=fitted,
        files={},
        built_with={"semroute": version("semroute-router"), "faiss": faiss.__version__},
    )


def _counts(config: Config, utterances: int) -> artifact.CountsRecord:
    heldout = sum(len(route.heldout) for route in config.routes) + len(config.settings.default.heldout)
    return artifact.CountsRecord(routes=len(config.routes), utterances=utterances, heldout=heldout)


def _utterances_to_bytes(index: RouteIndex) -> bytes:
    names = index.route_names
    lines = [
        json.dumps({"route": names[entry.route], "text": entry.text}, ensure_ascii=False) + "\n"
        for entry in index.entries
    ]
    return "".join(lines).encode("utf-8")


def _entries_from_bytes(data: bytes, config: Config) -> tuple[Entry, ...]:
    places = {route.name: place for place, route in enumerate(config.routes)}
    rows = (json.loads(line) for line in data.decode("utf-8").split("\n") if line)
    return tuple(Entry(places[row["route"]], row["text"]) for row in rows)


def _fitted_record(fitted: Fitted, words: Encoder | None) -> artifact.FittedRecord:
    return artifact.FittedRecord(
        words=None if words is None else words.identity.revision,
        max_distance=fitted.max_distance,
        min_confidence=fitted.min_confidence,
        method=fitted.method,
        on=fitted.on,
    )


def _fitted_to_bytes(index: RouteIndex) -> bytes:
    fitted = index.fitted
    dim, count = index.manifest.encoder.dim, len(index.config.routes)
    head = fitted.head or Head(np.empty((0, dim), np.float32), np.empty(0, np.float32))
    arrays = {
        "fingerprint": np.frombuffer(index.fingerprint.encode(), np.uint8),
        "head_weights": head.weights,
        "head_bias": head.bias,
        "vote_scale": np.float64(fitted.vote_scale),
        "centroids": fitted.centroids.reshape(count, dim),
        "evidence": np.array(astuple(fitted.evidence), np.float64),
        "max_distance": np.float64(fitted.max_distance),
        "min_confidence": np.float64(fitted.min_confidence),
        "route_min_confidence": np.array(fitted.route_min_confidence, np.float64),
        "left_out": np.column_stack(_columns(fitted.left_out)),
        "negatives": index.negatives,
        "labels": index.labels,
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, value in arrays.items():
            # numpy.savez stamps the current time on each entry; the same inputs must give the same bytes.
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            with archive.open(entry, "w") as file:
                np.lib.format.write_array(file, np.asarray(value), allow_pickle=False)
    return buffer.getvalue()


def _columns(left_out: LeftOut) -> tuple[NDArray[Any], ...]:
    return left_out.rows, left_out.routes, left_out.confidence, left_out.similarity


def _left_out(array: NDArray[np.float64]) -> LeftOut:
    rows, routes, confidence, similarity = array.T
    return LeftOut(rows.astype(np.int64), routes.astype(np.int64), confidence, similarity)


def _check_counts(manifest: Manifest, config: Config, entries: Sequence[Entry]) -> None:
    if manifest.counts != _counts(config, len(entries)):
        raise ValueError(
            f"the manifest counts {manifest.counts}, and there are {_counts(config, len(entries))}"
        )
    if set(entries) != set(_declared_entries(config)) or not all(isinstance(e.text, str) for e in entries):
        raise ValueError("the utterances are not those of the config")


def _fitted_from_bytes(data: bytes, manifest: Manifest, config: Config) -> tuple[Fitted, Vectors, Vectors]:
    """What was fitted, the negatives and the labels. Raises ValueError or KeyError."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        # Stored, not compressed: what an entry unpacks to is bounded by the size of the file.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ValueError("the fitted numbers are compressed")
        arrays = {
            entry.filename.removesuffix(".npy"): _array_from_npy(archive.read(entry))
            for entry in archive.infolist()
        }
    if manifest.format == 1:
        arrays = _upgraded(arrays, manifest, len(config.routes))
    arrays.setdefault("left_out", np.empty((0, 4)))  # written since version 4 of the fit
    _check_fitted(arrays, manifest, config)
    head = Head(arrays["head_weights"], arrays["head_bias"])
    fitted = Fitted(
        head=head if len(head.bias) else None,
        vote_scale=float(arrays["vote_scale"]),
        centroids=arrays["centroids"],
        evidence=Evidence(*arrays["evidence"].tolist()),
        max_distance=float(arrays["max_distance"]),
        min_confidence=float(arrays["min_confidence"]),
        route_min_confidence=tuple(arrays["route_min_confidence"].tolist()),
        left_out=_left_out(arrays["left_out"]),
        method=manifest.fitted.method,
        on=manifest.fitted.on,
    )
    written = manifest.fitted
    if (fitted.max_distance, fitted.min_confidence) != (written.max_distance, written.min_confidence):
        raise ValueError("the fitted numbers are not those of the manifest")
    return fitted, arrays["negatives"], arrays["labels"]


_SURE_TO_BELONG = 50.0  # an intercept of the evidence beyond all doubt


def _upgraded(arrays: dict[str, NDArray[Any]], manifest: Manifest, count: int) -> dict[str, NDArray[Any]]:
    """The arrays of an index of format 1, which knew a distance limit and the vote alone."""
    dim = manifest.encoder.dim
    return {
        "fingerprint": np.frombuffer(manifest.fingerprint.encode(), np.uint8),
        "head_weights": np.empty((0, dim), np.float32),
        "head_bias": np.empty(0, np.float32),
        "vote_scale": np.array(1.0),
        "centroids": np.zeros((count, dim), np.float32),
        "evidence": np.array([_SURE_TO_BELONG, 0.0, 0.0, 0.0]),
        "route_min_confidence": np.full(count, float(arrays["min_confidence"])),
        "labels": np.empty((0, dim), np.float32),
        **arrays,
    }


def _check_fitted(arrays: Mapping[str, NDArray[Any]], manifest: Manifest, config: Config) -> None:
    """Raise ValueError or KeyError unless the arrays have their shapes, and are fitted on this very index."""
    if bytes(arrays["fingerprint"]) != manifest.fingerprint.encode():
        raise ValueError("the numbers were fitted on another index")
    count, dim = len(config.routes), manifest.encoder.dim
    heads = len(arrays["head_bias"])
    labels = len(_label_entries(config)) if len(arrays["labels"]) else 0
    wanted = {
        "head_weights": (np.float32, (heads, _head_width(arrays, manifest))),
        "head_bias": (np.float32, (heads,)),
        "vote_scale": (np.float64, ()),
        "centroids": (np.float32, (count, dim)),
        "evidence": (np.float64, (4,)),
        "max_distance": (np.float64, ()),
        "min_confidence": (np.float64, ()),
        "route_min_confidence": (np.float64, (count,)),
        "left_out": (np.float64, (len(arrays["left_out"]), 4)),
        "negatives": (np.float32, (len(config.settings.default.heldout), dim)),
        "labels": (np.float32, (labels, dim)),
    }
    if heads not in (0, count):
        raise ValueError(f"a head of {heads} routes, and there are {count}")
    limits = (arrays["min_confidence"], arrays["route_min_confidence"], arrays["max_distance"] / 2.0)
    if not all(((value >= 0.0) & (value <= 1.0)).all() for value in limits):
        raise ValueError("a fitted limit is out of its range")
    if (arrays["evidence"][1:] < 0.0).any() or arrays["vote_scale"] < 0.0:
        raise ValueError("a fitted slope is negative")
    for name, (dtype, shape) in wanted.items():
        array = arrays[name]
        if array.dtype != dtype or array.shape != shape:
            raise ValueError(f"the fitted {name} are {array.dtype} {array.shape}")
        impossible = -np.inf if name == "head_bias" else np.nan  # a route without an example
        if not np.all(np.isfinite(array) | (array == impossible)):
            raise ValueError(f"the fitted {name} hold what is no number")

    lowest, highest = (0, 0, 0.0, -1.0), (manifest.counts.utterances - 1, count - 1, 1.0, 1.01)
    left_out = arrays["left_out"]
    if ((left_out < lowest) | (left_out > highest)).any():
        raise ValueError("what was left out is no utterance or no judgement of one")


def _head_width(arrays: Mapping[str, NDArray[Any]], manifest: Manifest) -> int:
    """What the head looks at: the vector, and that of the words where there is one, of whatever length."""
    dim = manifest.encoder.dim
    width = arrays["head_weights"].shape[-1] if arrays["head_weights"].ndim else 0
    return max(width, dim + 1) if manifest.fitted.words and len(arrays["head_bias"]) else dim


def _array_from_npy(data: bytes) -> NDArray[Any]:
    """Read an array of numbers, never objects, whose header claims just as many bytes as there are."""
    file = io.BytesIO(data)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("another version of the NPY format")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject or is_fortran or math.prod(shape) * dtype.itemsize != len(data) - file.tell():
        raise ValueError(f"an array of {dtype} {shape} in {len(data)} bytes")
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape)


_HEADER = struct.Struct("<4siqqq?i")  # FAISS: fourcc, dim, ntotal, two unused, is_trained, metric
_FLAT_HEADER_BYTES = _HEADER.size + 8  # and the number of floats that follow
_FOURCC = {"flat": b"IxFI", "hnsw": b"IHNf"}


def _check_store_header(data: bytes, manifest: Manifest) -> None:
    fourcc, dim, total, _, _, trained, metric = _HEADER.unpack_from(data)
    wanted = (_FOURCC.get(manifest.vectors.kind), manifest.encoder.dim, manifest.counts.utterances, True, 0)
    stored_as = (manifest.vectors.metric, manifest.vectors.dtype)
    if (fourcc, dim, total, trained, metric) != wanted or stored_as != ("inner_product", "float32"):
        raise ValueError(f"the vectors are {fourcc!r} of {total} x {dim}, and the manifest says {wanted!r}")
    size = total * dim * 4
    if len(data) < size or (fourcc == _FOURCC["flat"] and len(data) != _FLAT_HEADER_BYTES + size):
        raise ValueError(f"{len(data)} bytes are not {total} vectors of {dim} numbers")


def _store_from_bytes(data: bytes, manifest: Manifest) -> faiss.Index:
    store = faiss.deserialize_index(np.frombuffer(data, np.uint8))
    if (store.ntotal, store.d) != (manifest.counts.utterances, manifest.encoder.dim):
        raise ValueError(f"FAISS reads {store.ntotal} x {store.d}")
    return store
