"""Quality of each model over all prompts, learnt from many graded ones.

The score of a model is its mean, and the *level* of the prompt (how much better than usual the models did on
it together), and the *deviation* of the model from that level. Level and deviations are smoothed apart, each
with the penalty that predicts left-out prompts best: what makes a prompt harder than others of its kind
cancels in the difference between two models graded on it. A small regression then bends the deviations by the
level, since on the easiest prompts every model is right and on the hardest none is.

The smoother is kernel ridge regression, that is the mean of a Gaussian process, on the vector and cheap
features of the text, over landmarks (Nystroem; Williams and Seeger 2001). Leaving a prompt out has a closed
form for it (Allen 1974).
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

ENOUGH = 200
"""Graded prompts of a model from which a trend is learnt."""

_LANDMARKS = (512, 1_024)  # up to _MANY prompts, and above
_MANY = 4_000
_CHOSEN_ON = 4_000  # prompts on which the penalties are chosen
_PENALTIES = tuple(2.0**power for power in range(11))
_WIDTH = 2.0  # of the kernel: exp(-_WIDTH d^2 / median of d^2)
_FEATURE_WEIGHT = 0.1  # of a standardised feature beside a vector of length 1
_FARTHEST_FEATURE = 4.0  # standard deviations beyond which a feature says no more
_MEDIAN_OF = 500
_RANK_TOLERANCE = 1e-6
_BENT_FROM = 400  # graded prompts below which the deviations are not bent: it would be luck
_TERMS = 4  # of `_terms`
_CHUNK = 8_192
_SEED = 0

_READ = 20_000  # characters of a text that the features look at
_CODE = re.compile(r"[\^_\\{}=<>]|\bdef\b|```")
_DIGIT = re.compile(r"\d")
_UPPER = re.compile(r"[A-Z]")
_MARK = re.compile(r"[^\w\s]")

FEATURE_COUNT = 15

_LIKENESS_WIDTH = 0.25  # of cosine distance
_LEAST_LIKENESS = 0.02

LEAST_ALIKE = 1.0 - _LIKENESS_WIDTH * math.sqrt(-2.0 * math.log(_LEAST_LIKENESS))
"""The cosine similarity below which an outcome says nothing, about 0.3."""


def likeness(similarities: NDArray[np.float32]) -> NDArray[np.float32]:
    """How much an outcome at each cosine similarity says about a prompt.

    exp(-d^2 / (2 * 0.25^2)) of the distance d: 1 where equal, 0.5 at similarity 0.7, nothing below 0.3, so
    that unrelated prompts have no part at all.
    """
    distances = np.maximum(1.0 - similarities, 0.0) / np.float32(_LIKENESS_WIDTH)
    likeness: NDArray[np.float32] = np.exp(-0.5 * distances * distances)
    return np.where(likeness >= _LEAST_LIKENESS, likeness, np.float32(0.0))


def features(text: str) -> NDArray[np.float32]:
    """Cheap properties of a text, (FEATURE_COUNT,) float32: length, shape, digits, code. No word of it."""
    text = text[:_READ]
    size = max(1, len(text))
    words = text.split()
    lines = text.split("\n")
    rest = lines[1:-1] or [""]
    digits = len(_DIGIT.findall(text))
    found = (
        math.log1p(len(text)),
        math.log1p(len(words)),
        len(text) / max(1, len(words)),
        digits / size,
        len(_UPPER.findall(text)) / size,
        len(_MARK.findall(text)) / size,
        math.log1p(len(lines)),
        math.log1p(len(lines[0])),
        math.log1p(sum(map(len, rest)) / len(rest)),
        float("?" in text),
        float(_CODE.search(text) is not None),
        math.log1p(digits),
        len(set(words)) / max(1, len(words)),
        math.log1p(text.count(",")),
        float('"' in text),
    )
    return np.array(found, np.float32)


class Graded(NamedTuple):
    """Prompts and what the models were worth on them.

    vectors: (n, dim) float32 unit rows. features: (n, FEATURE_COUNT) float32.
    scores: (n, models) float32 in [0, 1], NaN where a model was not graded. weights: (n,) in (0, 1], by age.
    """

    vectors: NDArray[np.float32]
    features: NDArray[np.float32]
    scores: NDArray[np.float32]
    weights: NDArray[np.float32]


class _Smoother(NamedTuple):
    """Level and deviations of the models of `columns`, m of them.

    slopes: (landmarks, 1 + m) float32, of the kernel: the level, then the deviations. starts: (1 + m,), at a
    kernel of zero. means: (m,). bends: (_TERMS, m) and bend_starts (m,), on what `_terms` makes of both.
    outcomes: how many prompts it learnt from, by weight.
    """

    columns: list[int]
    slopes: NDArray[np.float32]
    starts: Floats
    means: Floats
    bends: Floats
    bend_starts: Floats
    outcomes: float

    def quality(self, near: NDArray[np.float32]) -> Floats:
        """(n, m), given the kernel (n, landmarks)."""
        raw = self.starts + near @ self.slopes
        level, deviations = raw[:, :1], raw[:, 1:]
        bent = np.einsum("tnm,tm->nm", _terms(level, deviations), self.bends) + self.bend_starts
        quality: Floats = self.means + level + deviations + bent
        return quality


class Trend:
    """Expected quality of each model on any prompt, and how many outcomes that is worth."""

    def __init__(self, graded: Graded) -> None:
        """Learn from `graded`, of which at least one model must have ENOUGH. Deterministic."""
        self._models = graded.scores.shape[1]
        self._feature_mean = graded.features.mean(axis=0)
        self._feature_spread = graded.features.std(axis=0) + 1e-6
        inputs = self._inputs(graded.vectors, graded.features)
        order = np.random.default_rng(_SEED).permutation(len(inputs))
        count = _LANDMARKS[len(inputs) > _MANY]
        self._landmarks = inputs[np.sort(order[:count])]
        self._squares = np.einsum("ij,ij->i", self._landmarks, self._landmarks)
        self._scale = _WIDTH / _median_distance(self._landmarks)
        values, axes = np.linalg.eigh(self._kernel(self._landmarks).astype(np.float64))
        kept = values > _RANK_TOLERANCE * values[-1]
        self._whiten = (axes[:, kept] / np.sqrt(values[kept])).astype(np.float32)
        self._smoothers = [
            self._smoother(inputs, graded, columns, rows)
            for columns, rows in _groups(graded.scores)
            if rows.sum() >= ENOUGH
        ]

    def predict(self, vector: NDArray[np.float32], features: NDArray[np.float32]) -> tuple[Floats, Floats]:
        """Quality of each model, NaN where nothing was learnt, and support in outcomes, each (models,)."""
        quality, support = np.full(self._models, np.nan), np.zeros(self._models)
        near = self._kernel(self._inputs(vector[None], features[None]))
        alike = float(likeness(self._landmarks[:, : len(vector)] @ vector).mean())
        for smoother in self._smoothers:
            quality[smoother.columns] = smoother.quality(near)[0]
            support[smoother.columns] = smoother.outcomes * alike
        return quality, support

    def predict_many(self, vectors: NDArray[np.float32], features: NDArray[np.float32]) -> Floats:
        """`predict` for many prompts, quality alone, (n, models)."""
        found = np.full((len(vectors), self._models), np.nan)
        inputs = self._inputs(vectors, features)
        for start in range(0, len(inputs), _CHUNK):
            near = self._kernel(inputs[start : start + _CHUNK])
            for smoother in self._smoothers:
                found[start : start + _CHUNK, smoother.columns] = smoother.quality(near)
        return found

    def _inputs(self, vectors: NDArray[np.float32], features: NDArray[np.float32]) -> NDArray[np.float32]:
        standard = (features - self._feature_mean) / self._feature_spread
        standard = np.clip(standard, -_FARTHEST_FEATURE, _FARTHEST_FEATURE) * np.float32(_FEATURE_WEIGHT)
        return np.concatenate([vectors, standard.astype(np.float32)], axis=1)

    def _kernel(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        squares = np.einsum("ij,ij->i", inputs, inputs)
        distances = squares[:, None] + self._squares - 2.0 * (inputs @ self._landmarks.T)
        near: NDArray[np.float32] = np.exp(-np.float32(self._scale) * np.maximum(distances, 0.0))
        return near

    def _coordinates(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, rank): points whose inner products are the kernel's, as far as the landmarks tell."""
        found = np.empty((len(inputs), self._whiten.shape[1]), np.float32)
        for start in range(0, len(inputs), _CHUNK):
            found[start : start + _CHUNK] = self._kernel(inputs[start : start + _CHUNK]) @ self._whiten
        return found

    def _smoother(
        self,
        inputs: NDArray[np.float32],
        graded: Graded,
        columns: tuple[int, ...],
        rows: NDArray[np.bool_],
    ) -> _Smoother:
        weights = graded.weights[rows].astype(np.float64)
        places = self._coordinates(inputs[rows])
        scores = graded.scores[rows][:, list(columns)].astype(np.float64)
        means = np.average(scores, axis=0, weights=weights)
        level = (scores - means).mean(axis=1, keepdims=True)
        targets = np.concatenate([level, scores - means - level], axis=1)
        middle = (weights.astype(np.float32) @ places / weights.sum()).astype(np.float64)
        places -= middle.astype(np.float32)  # in place: it is the largest thing here
        squares, products = _sums(places, targets, weights)
        spans, axes = np.linalg.eigh(squares)
        spans = np.maximum(spans, 0.0)
        turned = axes.T @ products
        some = np.linspace(0, len(places) - 1, min(len(places), _CHOSEN_ON)).astype(np.int64)
        steps = places[some] @ axes.astype(np.float32)
        penalties, left_out = _best_penalties(steps, targets[some], weights[some], spans, turned)
        slopes = axes @ (turned / (spans[:, None] + penalties))
        bends, bend_starts = _bends(left_out, targets[some], weights[some])
        return _Smoother(
            list(columns),
            (self._whiten @ slopes).astype(np.float32),
            -middle @ slopes,
            means,
            bends,
            bend_starts,
            float(weights.sum()),
        )


def _sums(places: NDArray[np.float32], targets: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Weighted sums of squares (rank, rank) and of products with the targets (rank, targets).

    Products in float32 take half the time, and their rounding is far below any penalty.
    """
    rank = places.shape[1]
    squares, products = np.zeros((rank, rank)), np.zeros((rank, targets.shape[1]))
    for start in range(0, len(places), _CHUNK):
        part = slice(start, start + _CHUNK)
        weighted = places[part] * weights[part, None].astype(np.float32)
        squares += places[part].T @ weighted
        products += weighted.T @ targets[part].astype(np.float32)
    return squares, products


def _best_penalties(
    steps: NDArray[np.float32], targets: Floats, weights: Floats, spans: Floats, turned: Floats
) -> tuple[Floats, Floats]:
    """Of each target the penalty with the least error on left-out prompts, and what it predicts of them.

    Returns (targets,) and (n, targets).
    """
    least = np.full(targets.shape[1], np.inf)
    penalties, best = np.zeros(targets.shape[1]), np.zeros_like(targets)
    squares = steps**2
    for penalty in _PENALTIES:
        shrunk = 1.0 / (spans + penalty)
        leverage = np.minimum(weights * (squares @ shrunk.astype(np.float32)), 0.99)[:, None]
        predicted = steps @ (turned * shrunk[:, None]).astype(np.float32)
        left_out = (predicted - leverage * targets) / (1.0 - leverage)
        errors = np.average((targets - left_out) ** 2, axis=0, weights=weights)
        better = errors < least
        least[better], penalties[better] = errors[better], penalty
        best[:, better] = left_out[:, better]
    return penalties, best


def _terms(level: Floats, deviations: Floats) -> Floats:
    """(_TERMS, n, m) of the level (n, 1) and the deviations (n, m)."""
    levels = np.broadcast_to(level, deviations.shape)
    return np.stack([deviations, levels, levels**2, levels * deviations])


def _bends(left_out: Floats, targets: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """What the left-out deviations miss of the true ones, as slopes (_TERMS, m) and starts (m,) on `_terms`.

    Least squares, drawn to nothing by the positive-part rule of James and Stein (1961): as far as it explains
    no more than as many random terms would. The starts are such that no mean changes.
    """
    terms, missed = _terms(left_out[:, :1], left_out[:, 1:]), targets[:, 1:] - left_out[:, 1:]
    models = missed.shape[1]
    slopes, starts = np.zeros((_TERMS, models)), np.zeros(models)
    if models < 2 or weights.sum() < _BENT_FROM:
        return slopes, starts
    roots = np.sqrt(weights)[:, None]
    for model in range(models):
        own = terms[:, :, model].T
        centre = np.average(own, axis=0, weights=weights)
        gap = missed[:, model] - np.average(missed[:, model], weights=weights)
        found = np.linalg.lstsq((own - centre) * roots, gap * roots[:, 0], rcond=1e-4)[0]
        explained = (own - centre) @ found
        noise = max(float(np.average((gap - explained) ** 2, weights=weights)), 1e-9)
        ratio = float(weights @ explained**2) / noise
        slopes[:, model] = found * max(0.0, 1.0 - _TERMS / ratio) if ratio > 0.0 else 0.0
        starts[model] = -float(centre @ slopes[:, model])
    return slopes, starts


def _median_distance(points: NDArray[np.float32]) -> float:
    some = points[:_MEDIAN_OF]
    squares = np.einsum("ij,ij->i", some, some)
    distances = squares[:, None] + squares - 2.0 * (some @ some.T)
    return max(float(np.median(distances)), 1e-3)  # all prompts alike: any width will do


def _groups(scores: NDArray[np.float32]) -> Sequence[tuple[tuple[int, ...], NDArray[np.bool_]]]:
    """Models that were graded on the same prompts, with those prompts."""
    found: dict[bytes, list[int]] = {}
    graded = ~np.isnan(scores)
    for model in range(scores.shape[1]):
        found.setdefault(graded[:, model].tobytes(), []).append(model)
    return [(tuple(models), graded[:, models[0]]) for models in found.values()]
