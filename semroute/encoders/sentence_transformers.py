"""Any model of the sentence-transformers library, from a folder or the Hugging Face hub, without its code.

The library pads texts to batches: a row then differs from the row of the same text alone by some 1e-7, the
rounding of float32, which is the one exception to "a row depends on its own text only".
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semroute.encoders.base import EncoderIdentity, Kind, KnownIdentity, clip, unit_rows
from semroute.encoders.folder import CHARS_PER_TOKEN, folder_digest, max_tokens, require_folder
from semroute.errors import EncoderUnavailable, EncodingFailed, install_extra

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from semroute.encoders.base import Vectors

_EXTRA = "sentence-transformers"
_OLDEST = {"sentence-transformers": (5, 5, 2), "transformers": (5, 3, 0)}
"""Earlier versions run code from a model folder (fixed in sentence-transformers 5.5.2, transformers 5.3)."""
_DOWNLOADED = ["*.json", "*.txt", "*.model", "*.safetensors", "*.py"]
_NOT_DOWNLOADED = ["onnx/*", "openvino/*"]


class SentenceTransformersEncoder:
    """Vectors from `model`: a folder, relative to `root`, or a name on the hub.

    Names are looked up in the local cache first; with HF_HUB_OFFLINE=1 nowhere else. Prompts for queries
    and documents are used where the model defines them. Weights are read from safetensors only, and a
    folder that brings Python files or foreign module types is refused before anything is loaded. Safe to
    use from several threads, one at a time. Raises EncoderUnavailable.
    """

    def __init__(self, model: str, *, root: Path, name: str) -> None:
        _require_library(name)
        local = _local_folder(model, root=root, name=name)
        folder = local or _downloaded_folder(model, name=name)
        _require_harmless(folder, name=name)
        self._name = name
        self._max_chars = CHARS_PER_TOKEN * max_tokens(folder, name=name)
        self._lock = threading.Lock()
        self._model = _load(folder, name=name)
        self._identity = EncoderIdentity(
            name=name,
            revision=folder_digest(folder, name=name) if local else folder.name,
            dim=self._measured_dim(),
            preprocessing=_preprocessing(self._max_chars),
        )

    @property
    def identity(self) -> EncoderIdentity:
        """The revision is the digest of a folder, or the commit of a model from the hub."""
        return self._identity

    def encode(self, texts: Sequence[str], *, kind: Kind) -> Vectors:
        """Embed `texts`: shape (len(texts), dim), float32, C-contiguous, rows of length 1.

        Raises EncodingFailed.
        """
        import numpy as np

        if not texts:
            return np.empty((0, self._identity.dim), dtype=np.float32)
        return unit_rows(self._encode(texts, kind), name=self._name, dim=self._identity.dim)

    def _encode(self, texts: Sequence[str], kind: Kind) -> Any:
        encode = self._model.encode_query if kind == "query" else self._model.encode_document
        clipped = [clip(text, self._max_chars) for text in texts]
        try:
            with self._lock:  # the tokenizer's padding and truncation are state of one call
                return encode(clipped, show_progress_bar=False, convert_to_numpy=True)
        except (RuntimeError, ValueError, TypeError, IndexError, KeyError) as error:
            raise EncodingFailed(f"encoder {self._name}: the model failed: {type(error).__name__}") from error

    def _measured_dim(self) -> int:
        try:
            return int(unit_rows(self._encode(["a"], "document"), name=self._name).shape[1])
        except EncodingFailed as error:
            raise EncoderUnavailable(str(error)) from error


def identify_model(model: str, *, root: Path, name: str) -> KnownIdentity:
    """Revision and preprocessing of a folder; only the name of a model from the hub.

    Raises EncoderUnavailable.
    """
    folder = _local_folder(model, root=root, name=name)
    if folder is None:
        return KnownIdentity(name, None, None, None)
    preprocessing = _preprocessing(CHARS_PER_TOKEN * max_tokens(folder, name=name))
    return KnownIdentity(name, folder_digest(folder, name=name), None, preprocessing)


def _preprocessing(max_chars: int) -> str:
    return f"clip={max_chars}"


def _local_folder(model: str, *, root: Path, name: str) -> Path | None:
    """The folder that `model` names; None when it must be a name on the hub, "name" or "owner/name"."""
    folder = root / model
    if folder.is_dir():
        return folder
    if re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", model):
        return None
    raise EncoderUnavailable(
        f"encoder {name}: {folder} is no folder, and {model!r} is no name of a model on the hub; give either"
    )


def _require_library(name: str) -> None:
    for package, oldest in _OLDEST.items():
        try:
            found = version(package)
        except PackageNotFoundError as error:
            raise EncoderUnavailable(
                f"encoder {name}: {package} is not installed: {install_extra(_EXTRA)}"
            ) from error
        if tuple(int(number) for number in re.findall(r"\d+", found)[:3]) < oldest:
            wanted = ".".join(map(str, oldest))
            raise EncoderUnavailable(
                f"encoder {name}: {package} {found} can run code from a model folder, {wanted} is the oldest "
                f"that cannot: {install_extra(_EXTRA)}"
            )


def _downloaded_folder(model: str, *, name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    repository = model if "/" in model else f"sentence-transformers/{model}"
    try:
        folder = snapshot_download(
            repository, allow_patterns=_DOWNLOADED, ignore_patterns=_NOT_DOWNLOADED, library_name="semroute"
        )
    except (OSError, HfHubHTTPError, HFValidationError, OfflineModeIsEnabled) as error:
        raise EncoderUnavailable(
            f"encoder {name}: no folder {model} and no model {repository} in the local cache or on the hub; "
            "check the name, or unset HF_HUB_OFFLINE to download it once"
        ) from error
    return Path(folder)


def _require_harmless(folder: Path, *, name: str) -> None:
    """Refuse a folder that could bring code: Python files, foreign module types, pickled weights."""
    require_folder(folder, name=name)
    for module_type in _module_types(folder / "modules.json", name=name):
        if not module_type.startswith("sentence_transformers."):
            raise EncoderUnavailable(
                f"encoder {name}: {folder / 'modules.json'} names the module type {module_type!r}; only "
                "those of sentence_transformers are loaded, take another model"
            )
    for file in folder.rglob("pytorch_model*.bin"):
        if not any(file.parent.glob("*.safetensors")):
            raise EncoderUnavailable(
                f"encoder {name}: {file} holds pickled weights, which can run code; save the model again "
                "with save_pretrained(), which writes safetensors"
            )


def _module_types(file: Path, *, name: str) -> list[str]:
    import json

    try:
        return [str(module["type"]) for module in json.loads(file.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise EncoderUnavailable(f"encoder {name}: cannot read {file}: {error}; fetch it again") from error


def _load(folder: Path, *, name: str) -> SentenceTransformer:
    try:
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(
            str(folder),
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True},
        )
    except Exception as error:  # a model folder can fail in any library that reads a part of it
        reason = f"{type(error).__name__}: {error}"
        raise EncoderUnavailable(
            f"encoder {name}: sentence-transformers cannot load {folder}: {reason}; check the folder"
        ) from error
