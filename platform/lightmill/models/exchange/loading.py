"""From a version back to a transformers model and its tokenizer: decrypted straight into tensors, no code run.

transformers builds the model from the sealed configuration on the meta device and takes the tensors as they
are. The tokenizer's files pass through a private folder in memory, because its library reads files; weights
never do.
"""

from __future__ import annotations

import inspect
from typing import Any

from lightmill.errors import IntegrityError, LightmillError, RequestError
from lightmill.models.exchange.cards import CONFIG_FILE, TRANSFORMERS
from lightmill.models.exchange.extras import need
from lightmill.models.exchange.private import private_folder
from lightmill.models.exchange.source import limit_of, parse_document
from lightmill.records.references import VersionId
from lightmill.registry import OpenVersion, Registry
from lightmill.registry.tensors import load_tensors
from lightmill.registry.workers import Progress

GENERATION_FILE = "generation_config.json"
TOKENIZER_MARKS = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "tokenizer.model")
_WHAT = "Loading a transformers model"


def load_transformers(registry: Registry, id: VersionId, *, progress: Progress | None = None) -> tuple[Any, Any]:
    """Return (model, tokenizer) of a version that holds a transformers model; the tokenizer is None if it has none.

    The model is in evaluation mode and in the dtype of its card.

    Raises:
        RequestError: The version holds another kind of model, asks for code of its own, has quantized weights,
            or the extra "hf" is not installed.
        IntegrityError: Stored bytes are not what was written, or tensors are missing.
    """
    version = registry.open(id)
    card = version.manifest.model
    if card is None or card.architecture.name != TRANSFORMERS:
        raise RequestError(f"{id} is not a transformers model; load it as what its card says.")
    transformers = need("transformers", "hf", _WHAT)
    config = _config(transformers, version)
    model = _model(transformers, version, config, progress)
    return model, _tokenizer(transformers, version)


def read_text(version: OpenVersion, path: str) -> bytes:
    """Return a small file of a version.

    Raises:
        RequestError: It is larger than such a file may be.
        NotFoundError: The version holds no such file.
        IntegrityError: Its bytes are not what was written.
    """
    size = next((file.size for file in version.manifest.files if file.path == path), 0)
    if size > limit_of(path.rsplit("/", 1)[-1]):
        raise RequestError(f"File {path!r} of {version.id} has {size} bytes, over the limit for it; it is not read.")
    return version.read_file(path)


def _config(transformers: Any, version: OpenVersion) -> Any:
    found = parse_document(read_text(version, CONFIG_FILE), CONFIG_FILE)
    if "quantization_config" in found:
        raise RequestError(f"{version.id} holds quantized weights, which this version does not load.")
    kind = found.get("model_type")
    if not isinstance(kind, str) or kind not in transformers.CONFIG_MAPPING:
        raise RequestError(f"transformers {transformers.__version__} knows no model type {str(kind)[:80]!r}.")
    return transformers.CONFIG_MAPPING[kind].from_dict(found)


def _model(transformers: Any, version: OpenVersion, config: Any, progress: Progress | None) -> Any:
    import torch

    card = version.manifest.model
    assert card is not None  # noqa: S101 - checked by the caller
    kind = _class(transformers, str(card.architecture.arguments.get("class", "")))
    dtype = getattr(torch, str(card.architecture.arguments.get("dtype", "float32")), None)
    if not isinstance(dtype, torch.dtype):
        raise IntegrityError(f"The card of {version.id} names an unknown dtype.")
    state = load_tensors(version, progress=progress)
    try:
        model, info = kind.from_pretrained(
            None, config=config, state_dict=state, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    except Exception as exc:
        raise RequestError(
            f"transformers {transformers.__version__} cannot build {version.id} as {kind.__name__}: "
            f"{type(exc).__name__}: {str(exc)[:300]}."
        ) from exc
    missing = [*info["missing_keys"], *info["mismatched_keys"]]
    if missing:
        raise IntegrityError(f"{version.id} lacks tensors of {kind.__name__}: {[str(key) for key in missing][:4]}.")
    if any(file.path == GENERATION_FILE for file in version.manifest.files):
        settings = parse_document(read_text(version, GENERATION_FILE), GENERATION_FILE)
        model.generation_config = transformers.GenerationConfig.from_dict(settings)
    return model


def _class(transformers: Any, name: str) -> Any:
    """Return a model class of transformers by its name, and nothing else that has a name there."""
    kind = getattr(transformers, name, None)
    if not inspect.isclass(kind) or not issubclass(kind, transformers.PreTrainedModel):
        raise RequestError(f"transformers {transformers.__version__} has no model class {name[:80]!r}.")
    return kind


def _tokenizer(transformers: Any, version: OpenVersion) -> Any:
    paths = [file.path for file in version.manifest.files if file.pieces and "/" not in file.path]
    if not any(mark in paths for mark in TOKENIZER_MARKS):
        return None
    wanted = [path for path in paths if not path.endswith((".safetensors", ".md", ".index.json"))]
    files = {path: read_text(version, path) for path in wanted}
    for path, data in files.items():
        if path.endswith(".json"):
            parse_document(data, path)
    try:
        with private_folder(files) as folder:
            return transformers.AutoTokenizer.from_pretrained(
                str(folder), trust_remote_code=False, local_files_only=True
            )
    except LightmillError:
        raise
    except Exception as exc:
        raise RequestError(
            f"transformers {transformers.__version__} cannot build the tokenizer of {version.id}: "
            f"{type(exc).__name__}: {str(exc)[:300]}."
        ) from exc
