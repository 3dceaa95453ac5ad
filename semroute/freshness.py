"""Whether an index is what its YAML says now: without a model, without FAISS, in milliseconds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from semroute import artifact
from semroute.changes import config_changes, encoder_changes
from semroute.config import Config, Floors
from semroute.encoders.bundled import words_revision
from semroute.errors import ConfigError

if TYPE_CHECKING:
    from semroute.encoders.base import EncoderIdentity, KnownIdentity

FIT_VERSION = 4
"""Of what `calibrate` fits and how: an index fitted in another way counts as stale."""


_FITS_OF_FORMAT = {1: (1,), 2: (2,), artifact.FORMAT: (FIT_VERSION, 3)}
"""With which versions of the fit an index of each format may be made; older ones load, and count as stale."""


def fingerprint(
    config: Config,
    encoder: EncoderIdentity | artifact.EncoderRecord,
    words: str | None,
    format_version: int = artifact.FORMAT,
    fit: int = FIT_VERSION,
) -> str:
    """Digest of what an index is built from: config, encoder identity and way of fitting; never of vectors.

    words: the revision of the token table beside the encoder, see `artifact.FittedRecord`.

    The same on every machine, so that an index built elsewhere can be checked without a model.
    """
    inputs = {
        "format": format_version,
        "fit": fit,
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


def made(config: Config, manifest: artifact.Manifest) -> bool:
    """Whether `config` gives the fingerprint of `manifest`, by this way of fitting or an older one."""
    return any(
        fingerprint(config, manifest.encoder, manifest.fitted.words, manifest.format, fit)
        == manifest.fingerprint
        for fit in _FITS_OF_FORMAT[manifest.format]
    )


def check(config: Config, known: KnownIdentity, folder: Path) -> list[str]:
    """What makes the index in `folder` stale against `config`, in words; empty when it is up to date.

    Needs no model. Parts of the encoder's identity that only loading it could tell are not compared.
    Raises ArtifactMissing, ArtifactCorrupt or ArtifactMismatch.
    """
    manifest, contents = artifact.read(folder)
    stored = contents["config"]
    return differences(
        config, known, manifest, lambda: config_from_bytes(stored), lambda: _stored_floors(stored)
    )


def differences(
    config: Config,
    known: KnownIdentity,
    manifest: artifact.Manifest,
    built: Callable[[], Config],
    floors: Callable[[], Floors | None],
) -> list[str]:
    """In what `config` differs from what was built, in words; empty when it does not.

    known: the encoder that `config` names. manifest: what the index says of itself. built: gives the config
    inside it, and is asked only where there is a difference to name; floors: those of that config.
    """
    changes = encoder_changes(known, manifest.encoder)
    if not _same_inputs(config, manifest):
        changes += _config_changes(built, config) or ["how routes are fitted (another semroute)"]
    elif floors() != config.settings.floors:
        changes += _config_changes(built, config)
    return changes


def is_built_from(config: Config, known: KnownIdentity, manifest: artifact.Manifest) -> bool:
    """Whether an index is built from what `config` says, its floors aside: nothing is built from them."""
    return not encoder_changes(known, manifest.encoder) and _same_inputs(config, manifest)


def _same_inputs(config: Config, manifest: artifact.Manifest) -> bool:
    words = words_revision(manifest.encoder.name)
    return fingerprint(config, manifest.encoder, words) == manifest.fingerprint


def _stored_floors(stored: bytes) -> Floors | None:
    """The floors in a stored config. Most projects have none, and then nothing is parsed."""
    if b'"floors"' not in stored:
        return None
    floors = json.loads(stored)["settings"].get("floors")
    return None if floors is None else Floors.model_validate(floors)


def _config_changes(read_built: Callable[[], Config], config: Config) -> list[str]:
    try:
        built = read_built()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigError):
        return ["the stored config (it is none, or another semroute wrote it)"]
    return config_changes(built, config)


def config_from_bytes(data: bytes) -> Config:
    """The config stored in an index. Raises ValueError or ConfigError."""
    return Config.from_canonical(json.loads(data))
