"""Whether an index is what its YAML says now: without a model, without FAISS, in milliseconds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from semroute import artifact
from semroute.changes import config_changes, encoder_changes
from semroute.config import Config
from semroute.encoders.bundled import words_revision
from semroute.errors import ConfigError

if TYPE_CHECKING:
    from semroute.encoders.base import EncoderIdentity, KnownIdentity

FIT_VERSION = 3
"""Of what `calibrate` fits and how: an index fitted in another way counts as stale."""


_FIT_OF_FORMAT = {1: 1, 2: 2, artifact.FORMAT: FIT_VERSION}
"""With which version of the fit an index of each format was made; older ones load, and count as stale."""


def fingerprint(
    config: Config,
    encoder: EncoderIdentity | artifact.EncoderRecord,
    words: str | None,
    format_version: int = artifact.FORMAT,
) -> str:
    """Digest of what an index is built from: config, encoder identity and way of fitting; never of vectors.

    words: the revision of the token table beside the encoder, see `artifact.FittedRecord`.

    The same on every machine, so that an index built elsewhere can be checked without a model.
    """
    inputs = {
        "format": format_version,
        "fit": _FIT_OF_FORMAT[format_version],
        "encoder": {
            "name": encoder.name,
            "revision": encoder.revision,
            "dim": encoder.dim,
            "preprocessing": encoder.preprocessing,
        },
        "config": config.behaviour(),
    }
    if words is not None:
        inputs["words"] = words
    return "sha256:" + hashlib.sha256(artifact.canonical_json(inputs)).hexdigest()


def check(config: Config, known: KnownIdentity, folder: Path) -> list[str]:
    """What makes the index in `folder` stale against `config`, in words; empty when it is up to date.

    Needs no model. Parts of the encoder's identity that only loading it could tell are not compared.
    Raises ArtifactMissing, ArtifactCorrupt or ArtifactMismatch.
    """
    manifest, contents = artifact.read(folder)
    changes = encoder_changes(known, manifest.encoder)
    if not _same_inputs(config, manifest):
        changes += _config_changes(contents, config) or ["how routes are fitted (another semroute)"]
    elif _floors_differ(contents["config"], config):
        changes += _config_changes(contents, config)
    return changes


def is_built_from(config: Config, known: KnownIdentity, manifest: artifact.Manifest) -> bool:
    """Whether an index is built from what `config` says, its floors aside: nothing is built from them."""
    return not encoder_changes(known, manifest.encoder) and _same_inputs(config, manifest)


def _same_inputs(config: Config, manifest: artifact.Manifest) -> bool:
    words = words_revision(manifest.encoder.name)
    return fingerprint(config, manifest.encoder, words) == manifest.fingerprint


def _floors_differ(stored: bytes, config: Config) -> bool:
    floors = config.canonical()["settings"].get("floors")
    # The fingerprint holds, so the rest is as it was; most projects have no floors, and nothing is parsed.
    if floors is None and b'"floors"' not in stored:
        return False
    settings = json.loads(stored)["settings"]
    return bool(settings.get("floors") != floors)


def _config_changes(contents: Mapping[str, bytes], config: Config) -> list[str]:
    try:
        built = config_from_bytes(contents["config"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigError):
        return ["the stored config (it is none, or another semroute wrote it)"]
    return config_changes(built, config)


def config_from_bytes(data: bytes) -> Config:
    """The config stored in an index. Raises ValueError or ConfigError."""
    return Config.from_canonical(json.loads(data))
