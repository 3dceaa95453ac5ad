"""What a request becomes, and the writing down of what is called for it."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from semroute.decision import Decision
from semroute.server.headers import described
from semroute.server.service import Service
from semroute.tracing import RequestTrace
from semroute.upstream import Attempt, Call, Headers, Observer, Rise, Upstream


@dataclass(slots=True)
class Plan:
    """What a request becomes: the call, and the decision behind it, if there was one.

    digest: of the conversation, where asking again is to be noticed.
    """

    call: Call
    identity: str
    decision: Decision | None
    session: str | None = None
    owner: str | None = None
    before: tuple[Attempt, ...] = ()
    digest: bytes | None = None

    def headers(self, model: str | None) -> list[tuple[bytes, bytes]]:
        """What the response says of the decision; `model` is the one that answered."""
        return described(self.decision, self.identity, model)


class Aside(Observer):
    """Writes down a call that is made before it is known what serves."""

    def __init__(self, service: Service, owner: str | None, trace: RequestTrace) -> None:
        self._service = service
        self._owner = owner
        self._trace = trace
        self.attempts: list[Attempt] = []

    def attempting(self, attempt: Attempt, upstream: Upstream) -> Headers:
        """See Observer."""
        return self._trace.attempting(attempt, upstream)

    def attempted(self, attempt: Attempt) -> None:
        """See Observer."""
        self.attempts.append(attempt)
        self._trace.attempted(attempt)
        self._service.metrics.attempted(attempt)
        self._service.budgets.spend(self._owner, attempt.usd or 0.0)


class Ledger(Observer):
    """Writes down what happens while one request is served."""

    def __init__(self, service: Service, plan: Plan, trace: RequestTrace) -> None:
        self._service = service
        self._plan = plan
        self._trace = trace
        self.attempts = list(plan.before)
        for attempt in plan.before:
            service.called(plan.decision, attempt)

    def attempting(self, attempt: Attempt, upstream: Upstream) -> Headers:
        """See Observer."""
        return self._trace.attempting(attempt, upstream)

    def attempted(self, attempt: Attempt) -> None:
        """See Observer."""
        service = self._service
        self.attempts.append(attempt)
        self._trace.attempted(attempt)
        if self._plan.call.counts:
            return
        service.metrics.attempted(attempt)
        if attempt.usd:
            service.budgets.spend(self._plan.owner, attempt.usd)
        if attempt.ids and attempt.outcome == "answered":
            service.affinity.note(self._plan.owner, attempt.ids, attempt.model)
        service.called(self._plan.decision, attempt)

    def rose(self, rise: Rise) -> None:
        """See Observer."""
        service, decision = self._service, self._plan.decision
        service.metrics.rose(rise)
        settings = service.router.index.config.settings.escalations
        if decision is None or settings is None or settings.store is None:
            return
        service.books.add(functools.partial(service.router.answered, decision.id, rise.model))
        said = {"to": rise.to, "why": rise.why}
        service.books.add(functools.partial(service.router.rejected, decision.id, **said))

    def answered_by(self, model: str) -> None:
        """The client gets the answer of `model`: feedback on the decision is about that one."""
        plan, decision = self._plan, self._plan.decision
        if plan.call.counts:
            return
        if decision is not None and plan.digest is not None:
            self._service.given(plan.digest, decision.id)
        if decision is not None and (decision.model != model or len(self.attempts) > 1):
            self._service.books.add(functools.partial(self._service.router.answered, decision.id, model))
        if plan.session is not None:
            seconds = self._service.settings.sticky_s
            self._service.affinity.note(plan.owner, [plan.session], model, seconds=seconds)
