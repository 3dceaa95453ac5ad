"""What `/metrics` shows, in Prometheus' text format: one registry for each app, no prompt text anywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from semroute.decision import Decision
from semroute.upstream import Attempt, Rise

if TYPE_CHECKING:
    from collections.abc import Iterable

    from semroute.health import Health

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_FAST = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1)


class Metrics:
    """The counters and histograms of one app.

    health: tells how each model is doing, at the moment of asking. without_outcomes: how many prompts were
    routed without outcomes because asking them failed. unheard: how many events some listener of the router,
    such as the decision log, was never told of.
    """

    def __init__(
        self,
        health: Callable[[], Mapping[str, Health]],
        without_outcomes: Callable[[], int],
        unheard: Callable[[], int],
    ) -> None:
        self._registry = registry = CollectorRegistry(auto_describe=False)
        self._requests = Counter(
            "semroute_requests", "Requests answered.", ("endpoint", "status"), registry=registry
        )
        self._duration = Histogram(
            "semroute_request_duration_seconds",
            "From the head of a request to the end of its answer.",
            ("endpoint",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._decisions = Counter(
            "semroute_decisions",
            "Prompts routed, by the model chosen.",
            ("route", "model", "reason"),
            registry=registry,
        )
        self._routing = Histogram(
            "semroute_routing_duration_seconds",
            "Time a decision took.",
            buckets=_FAST,
            registry=registry,
        )
        self._attempts = Counter(
            "semroute_upstream_attempts",
            "Calls of models, by what became of them.",
            ("model", "outcome"),
            registry=registry,
        )
        self._latency = Histogram(
            "semroute_upstream_duration_seconds",
            "Time a model took to the end of its answer.",
            ("model",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._ttft = Histogram(
            "semroute_upstream_time_to_first_token_seconds",
            "Time to the first content of a stream.",
            ("model",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._tokens = Counter(
            "semroute_tokens", "Tokens, by kind: prompt or completion.", ("model", "kind"), registry=registry
        )
        self._cost = Counter(
            "semroute_cost_usd", "US dollars by the prices of the config.", ("model",), registry=registry
        )
        self._escalations = Counter(
            "semroute_escalations",
            "Answers that a cascade rejected.",
            ("model", "to", "why"),
            registry=registry,
        )
        self._reloads = Counter(
            "semroute_reloads", "New indexes, by whether they were taken.", ("outcome",), registry=registry
        )
        self._dropped = Counter(
            "semroute_records_dropped", "Records that waited for the store in vain.", registry=registry
        )
        self._in_flight = Gauge("semroute_requests_in_flight", "Requests being served.", registry=registry)
        failures = Gauge(
            "semroute_decisions_without_outcomes",
            "Prompts routed without outcomes since the last reload, because asking them failed.",
            registry=registry,
        )
        failures.set_function(without_outcomes)
        registry.register(_HealthCollector(health))
        registry.register(_UnheardCollector(unheard))

    def requested(self, endpoint: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(endpoint, str(status)).inc()
        self._duration.labels(endpoint).observe(seconds)

    def decided(self, decision: Decision) -> None:
        """A prompt was routed."""
        self._decisions.labels(decision.route or "default", decision.model, decision.reason).inc()
        self._routing.observe(decision.elapsed_ms / 1e3)

    def attempted(self, attempt: Attempt) -> None:
        """A model was called."""
        self._attempts.labels(attempt.model, attempt.outcome).inc()
        self._latency.labels(attempt.model).observe(attempt.latency_ms / 1e3)
        if attempt.ttft_ms is not None:
            self._ttft.labels(attempt.model).observe(attempt.ttft_ms / 1e3)
        if attempt.prompt_tokens or attempt.completion_tokens:
            self._tokens.labels(attempt.model, "prompt").inc(attempt.prompt_tokens)
            self._tokens.labels(attempt.model, "completion").inc(attempt.completion_tokens)
        if attempt.usd:
            self._cost.labels(attempt.model).inc(attempt.usd)

    def rose(self, rise: Rise) -> None:
        """A cascade rejected an answer."""
        self._escalations.labels(rise.model, rise.to, rise.why).inc()

    def reloaded(self, outcome: str) -> None:
        """A new index was taken, or refused."""
        self._reloads.labels(outcome).inc()

    def dropped(self) -> None:
        """A record was dropped, because too many wait."""
        self._dropped.inc()

    def in_flight(self, count: int) -> None:
        """So many requests are being served."""
        self._in_flight.set(count)

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self._registry)


class _HealthCollector(Collector):
    """Reads the health of the models when it is asked for."""

    def __init__(self, health: Callable[[], Mapping[str, Health]]) -> None:
        self._health = health

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The families of gauges."""
        resting = GaugeMetricFamily(
            "semroute_upstream_failures", "Failures in a row of a model.", labels=["model"]
        )
        errors = GaugeMetricFamily(
            "semroute_upstream_error_ratio", "Share of failures, smoothed.", labels=["model"]
        )
        for name, health in self._health().items():
            resting.add_metric([name], health.failures)
            errors.add_metric([name], health.measured.errors)
        return [resting, errors]


class _UnheardCollector(Collector):
    """Asks how many events were dropped when it is asked for: they are counted where they are dropped."""

    def __init__(self, unheard: Callable[[], int]) -> None:
        self._unheard = unheard

    def collect(self) -> Iterable[CounterMetricFamily]:
        """The family of the one counter."""
        dropped = CounterMetricFamily(
            "semroute_events_dropped",
            "Events that a listener, such as the decision log, was too slow to be told of.",
        )
        dropped.add_metric([], self._unheard())
        return [dropped]
