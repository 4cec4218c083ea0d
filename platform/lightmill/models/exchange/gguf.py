"""GGUF files, read by transformers: weights, configuration and tokenizer in one file, quantized or not.

Quantized weights are unpacked to the floating-point type that transformers chooses; the version holds what
transformers would compute with. GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightmill.errors import RequestError
from lightmill.models.exchange.cards import CONFIG_FILE, transformers_card
from lightmill.models.exchange.extras import need
from lightmill.models.exchange.private import private_folder
from lightmill.models.exchange.source import Source, Weights, digest_of, open_regular, parse_document, size_of
from lightmill.models.exchange.streams import TensorFile
from lightmill.registry.tensors import plain_tensors, safetensors_header
from lightmill.registry.version import SAFETENSORS_FILE

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_ENTRIES = 100_000
STAGED = "model.gguf"
_OF_THE_FILE = frozenset({"quantization_config", "_name_or_path", "name_or_path"})
_HEAD = struct.Struct("<4sIQQ")


def gguf_source(path: Path) -> Source:
    """Return the model of a GGUF file; it is loaded into memory whole, since its weights are unpacked.

    Raises:
        RequestError: It is no GGUF file of version 2 or 3, transformers does not know its architecture, or the
            extra "hf" is not installed.
        NotFoundError: There is no such file.
    """
    size = _check_head(path)
    need("gguf", "hf", "Importing GGUF")
    need("accelerate", "hf", "Importing GGUF")
    transformers = need("transformers", "hf", "Importing GGUF")
    transformers.utils.logging.disable_progress_bar()
    try:
        model, files = _read(transformers, path)
    except Exception as exc:
        raise RequestError(f"transformers cannot read {path.name}: {type(exc).__name__}: {str(exc)[:300]}.") from exc
    config = parse_document(files[CONFIG_FILE], CONFIG_FILE)
    weights = _weights(model, path, size)
    parameters = float(sum(value.numel() for value in model.parameters()))
    card = transformers_card(config, [], {"parameters": parameters})
    note = "Its quantized weights were unpacked; the version holds them as floating-point numbers."
    return Source(name=path.name, format="gguf", weights=(weights,), files=files, card=card, notes=(note,))


def _check_head(path: Path) -> int:
    with open_regular(path) as file:
        size = size_of(file)
        head = file.read(_HEAD.size)
    if len(head) != _HEAD.size:
        raise RequestError(f"{path.name} is no GGUF file: it has {size} bytes.")
    magic, version, tensors, entries = _HEAD.unpack(head)
    if magic != MAGIC or version not in VERSIONS:
        raise RequestError(f"{path.name} is no GGUF file of version 2 or 3.")
    if tensors > MAX_ENTRIES or entries > MAX_ENTRIES:
        raise RequestError(f"{path.name} claims {tensors} tensors and {entries} values; the limit is {MAX_ENTRIES}.")
    return size


def _read(transformers: Any, path: Path) -> tuple[Any, dict[str, bytes]]:
    """Return the model and its small files, as transformers would save them.

    transformers sees a folder with nothing but the GGUF file, so that what lies beside it does not count.
    """
    options: dict[str, Any] = {"gguf_file": STAGED, "trust_remote_code": False, "local_files_only": True}
    unpack = getattr(transformers, "GgufConfig", None)  # before it existed, weights were always unpacked
    extra = {"quantization_config": unpack(dequantize=True)} if unpack else {}
    with private_folder({}) as stage:
        (stage / STAGED).symlink_to(path.absolute())
        model = transformers.AutoModelForCausalLM.from_pretrained(str(stage), **options, **extra)
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(stage), **options)
    model.config.architectures = [type(model).__name__]
    with private_folder({}) as place:
        for part in (tokenizer, model.config, model.generation_config):
            if part is not None:
                part.save_pretrained(place)
        return model, {found.name: _cleaned(found) for found in sorted(place.iterdir()) if found.is_file()}


def _cleaned(path: Path) -> bytes:
    """Drop from a configuration where it was read, and how the weights were packed, since they no longer are."""
    data = path.read_bytes()
    if not path.name.endswith(CONFIG_FILE):
        return data
    found = {key: value for key, value in json.loads(data).items() if key not in _OF_THE_FILE}
    return json.dumps(found, indent=2, sort_keys=True).encode() + b"\n"


def _weights(model: Any, path: Path, size: int) -> Weights:
    @contextmanager
    def read() -> Iterator[TensorFile]:
        tensors = plain_tensors(_untied(model))
        header = safetensors_header(tensors)
        total = sum(tensor.data.nbytes for tensor in tensors)
        yield TensorFile(path=SAFETENSORS_FILE, header=header, data_bytes=total, tensors=iter(tensors))

    return Weights(source=path.name, size_bytes=size, sha256=digest_of(path), open=read)


def _untied(model: Any) -> dict[str, Any]:
    """Return the state without tensors that are another's under a second name; loading ties them again."""
    state = model.state_dict()
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    doubles = {
        name
        for name, source in tied.items()
        if name in state and source in state and state[name].data_ptr() == state[source].data_ptr()
    }
    return {name: value for name, value in state.items() if name not in doubles}
