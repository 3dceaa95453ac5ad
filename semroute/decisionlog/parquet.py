"""Logged decisions as a Parquet file. Needs pyarrow (extra `parquet`)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semroute.decisionlog.record import FIELDS
from semroute.errors import StoreUnavailable, install_extra

if TYPE_CHECKING:
    from semroute.decisionlog.record import LoggedDecision

_ROWS = 10_000  # in a row group; so many are held at once


def write_parquet(decisions: Iterable[LoggedDecision], path: Path) -> int:
    """Write `decisions` to `path`, a row each, columns as the fields of LoggedDecision; returns how many.

    `time` is a timestamp (UTC, microseconds), `candidates` a list of structs. Raises StoreUnavailable without
    pyarrow, OSError.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise StoreUnavailable(
            f"Parquet needs pyarrow, which does not load ({error}); export as jsonl, or "
            + install_extra("parquet")
        ) from error
    schema = _schema(pa)
    waiting, written = iter(decisions), 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while rows := [_row(decision) for decision in islice(waiting, _ROWS)]:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            written += len(rows)
    return written


def _row(decision: LoggedDecision) -> dict[str, Any]:
    return {"text": None, **decision.to_dict(), "time": round(decision.time * 1e6)}


def _schema(pa: Any) -> Any:
    text, number, count = pa.string(), pa.float64(), pa.int64()
    candidate = pa.struct(
        [
            ("model", text),
            *(
                (name, number)
                for name in ("quality", "support", "prompt_usd_per_1m", "completion_usd_per_1m")
            ),
        ]
    )
    judgement = pa.struct([("model", text), ("score", number), ("escalated_to", text), ("by", text)])
    others = {
        "time": pa.timestamp("us", tz="UTC"),
        "candidates": pa.list_(candidate),
        "judgements": pa.list_(judgement),
        **dict.fromkeys(("fallbacks", "unpriced"), pa.list_(text)),
        **dict.fromkeys(("attempts", "prompt_tokens", "completion_tokens"), count),
        **dict.fromkeys(("confidence", "similarity", "margin", "elapsed_ms"), number),
        **dict.fromkeys(("usd", "overhead_usd", "latency_ms", "ttft_ms", "score"), number),
    }
    return pa.schema([(name, others.get(name, text)) for name in FIELDS])
