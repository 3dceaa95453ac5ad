"""Text to vectors: which encoder a spec means, opened or only identified.

    minilm                              bundled, the default: all-MiniLM-L6-v2 as int8 ONNX
    static                              bundled: a token table distilled from it
    sentence-transformers:NAME_OR_PATH  any model of that library (extra `sentence-transformers`)
    onnx:PATH                           a folder with tokenizer.json and model.onnx
    openai:MODEL                        any OpenAI-compatible /embeddings

Importing this package loads no other library; an encoder loads what it needs when it is opened.
"""

from __future__ import annotations

from pathlib import Path

from semroute.encoders.base import Encoder, EncoderIdentity, Kind, KnownIdentity
from semroute.encoders.bundled import Asset, verify_assets, words_revision
from semroute.errors import EncoderUnavailable

__all__ = [
    "Encoder",
    "EncoderIdentity",
    "Kind",
    "KnownIdentity",
    "identify",
    "is_spec",
    "open_encoder",
    "open_words",
    "verify_assets",
]

_SPECS = "minilm, static, sentence-transformers:NAME_OR_PATH, onnx:PATH or openai:MODEL"


def open_encoder(spec: str, *, root: Path, dim: int | None = None) -> Encoder:
    """Open the encoder that `spec` names, as it is written in YAML.

    Relative paths are taken from `root`. `dim` is the length of its vectors where the caller knows it, from
    an index for instance; it spares `openai:` a request and is ignored by the others. Raises
    EncoderUnavailable.
    """
    match _split(spec):
        case "minilm", _:
            from semroute.encoders.onnx import OnnxEncoder

            asset = Asset.open("minilm").verified()
            return OnnxEncoder(asset.folder, name=spec, revision=asset.revision)
        case "static", _:
            from semroute.encoders.static import StaticEncoder

            asset = Asset.open("static").verified()
            return StaticEncoder(asset.folder, name=spec, revision=asset.revision)
        case "onnx", path:
            from semroute.encoders.onnx import OnnxEncoder

            return OnnxEncoder(root / path, name=spec)
        case "sentence-transformers", model:
            from semroute.encoders.sentence_transformers import SentenceTransformersEncoder

            return SentenceTransformersEncoder(model, root=root, name=spec)
        case _, model:
            from semroute.encoders.openai import OpenAIEncoder

            return OpenAIEncoder(model, name=spec, dim=dim)


def open_words(spec: str) -> Encoder | None:
    """The token table whose vectors the head sees beside those of `spec`; None for all but `minilm`.

    Raises EncoderUnavailable.
    """
    return None if words_revision(spec) is None else open_encoder("static", root=Path())


def identify(spec: str, *, root: Path) -> KnownIdentity:
    """What can be told of the encoder that `spec` names in milliseconds, without loading it.

    Everything of a bundled encoder, all but the length of the vectors of a folder; see `KnownIdentity`.
    Raises EncoderUnavailable when the spec or its folder is unusable.
    """
    match _split(spec):
        case "minilm", _:
            from semroute.encoders.onnx import OnnxSettings

            asset = Asset.open("minilm")
            settings = OnnxSettings.read(asset.folder, name=spec)
            return KnownIdentity(spec, asset.revision, asset.dim, settings.preprocessing)
        case "static", _:
            from semroute.encoders.static import PREPROCESSING

            asset = Asset.open("static")
            return KnownIdentity(spec, asset.revision, asset.dim, PREPROCESSING)
        case "onnx", path:
            from semroute.encoders.onnx import identify_folder

            return identify_folder(root / path, name=spec)
        case "sentence-transformers", model:
            from semroute.encoders.sentence_transformers import identify_model

            return identify_model(model, root=root, name=spec)
        case _, model:
            from semroute.encoders.openai import PREPROCESSING

            return KnownIdentity(spec, model, None, PREPROCESSING)


def is_spec(spec: str) -> bool:
    """Whether `spec` names an encoder as YAML may; an encoder object may call itself anything."""
    kind, colon, argument = spec.partition(":")
    bundled = kind in {"minilm", "static"} and not colon
    return bundled or (kind in {"sentence-transformers", "onnx", "openai"} and bool(argument.strip()))


def _split(spec: str) -> tuple[str, str]:
    """Kind and argument of a spec; raises EncoderUnavailable when there is no such encoder."""
    if not is_spec(spec):
        raise EncoderUnavailable(f"there is no encoder {spec!r}; possible are {_SPECS}")
    kind, _, argument = spec.partition(":")
    return kind, argument.strip()
