"""The card of an imported model: what its configuration says about its class, its inputs and its outputs."""

from __future__ import annotations

import re
from typing import Any

from lightmill.errors import RequestError
from lightmill.records.assets import ModelCard
from lightmill.records.signature import Architecture, Preprocessing, Signature, TensorSpec

TRANSFORMERS = "transformers"
CONFIG_FILE = "config.json"
CARD_KEY = "lightmill"
_CLASS = re.compile(r"[A-Z][A-Za-z0-9]{1,99}")
_TORCH_NAMES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
_DTYPES = frozenset(_TORCH_NAMES.values())


def transformers_card(config: dict[str, Any], dtypes: list[str], metrics: dict[str, float]) -> ModelCard:
    """Return the card of a transformers model.

    Args:
        config: Its `config.json`.
        dtypes: The safetensors names of its tensors' dtypes, in order.
        metrics: Numbers to keep with it.

    Raises:
        RequestError: The configuration names no class, or one whose inputs and outputs are not known here.
    """
    name = class_of(config)
    return ModelCard(
        architecture=Architecture(name=TRANSFORMERS, arguments={"class": name, "dtype": dtype_of(config, dtypes)}),
        preprocessing=Preprocessing(),
        signature=signature_for(name, config),
        classes=labels_of(name, config),
        metrics=metrics,
    )


def class_of(config: dict[str, Any]) -> str:
    """Return the name of the model's class.

    Raises:
        RequestError: `architectures` names none, or something that is no name of a class.
    """
    found = config.get("architectures")
    if not isinstance(found, list) or not found or not isinstance(found[0], str) or not _CLASS.fullmatch(found[0]):
        raise RequestError(
            f"{CONFIG_FILE} names no class of transformers in 'architectures' (found {str(found)[:80]}); "
            'add it, such as ["BertModel"].'
        )
    return found[0]


def dtype_of(config: dict[str, Any], dtypes: list[str]) -> str:
    """Return the dtype to compute in: the configuration's, else that of the first floating-point tensor."""
    said = config.get("dtype") or config.get("torch_dtype")
    if isinstance(said, str) and said.removeprefix("torch.") in _DTYPES:
        return said.removeprefix("torch.")
    return next((_TORCH_NAMES[dtype] for dtype in dtypes if dtype in _TORCH_NAMES), "float32")


def labels_of(name: str, config: dict[str, Any]) -> tuple[str, ...]:
    """Return the classes of a classifier in the order of its logits; nothing for other models."""
    labels = config.get("id2label")
    if not name.endswith("Classification") or not isinstance(labels, dict):
        return ()
    numbered = {int(key): str(value) for key, value in labels.items() if str(key).isdigit()}
    return tuple(numbered[key] for key in sorted(numbered))


def signature_for(name: str, config: dict[str, Any]) -> Signature:
    """Return the inputs and outputs of a class of transformers; floating-point outputs are FP32.

    Raises:
        RequestError: They are not known for this class, or the configuration lacks a size.
    """
    tokens = [("input_ids", (-1, -1)), ("attention_mask", (-1, -1))]
    inputs = [TensorSpec(name=key, datatype="INT64", shape=shape) for key, shape in tokens]
    if name.endswith(("ForConditionalGeneration", "ForSeq2SeqLM")) and _size(config, "vocab_size", required=False):
        inputs.append(TensorSpec(name="decoder_input_ids", datatype="INT64", shape=(-1, -1)))
        output = _logits((-1, -1, _size(config, "vocab_size")))
    elif name.endswith(("ForCausalLM", "LMHeadModel", "ForMaskedLM")):
        output = _logits((-1, -1, _size(config, "vocab_size")))
    elif name.endswith("ForSequenceClassification"):
        output = _logits((-1, _labels(config)))
    elif name.endswith("ForTokenClassification"):
        output = _logits((-1, -1, _labels(config)))
    elif name.endswith("ForImageClassification"):
        side, channels = _size(config, "image_size"), _size(config, "num_channels", required=False) or 3
        inputs = [TensorSpec(name="pixel_values", datatype="FP32", shape=(-1, channels, side, side))]
        output = _logits((-1, _labels(config)))
    elif name.endswith("Model") and _size(config, "vocab_size", required=False):
        width = _size(config, "hidden_size", required=False) or _size(config, "dim")
        output = TensorSpec(name="last_hidden_state", datatype="FP32", shape=(-1, -1, width))
    else:
        raise RequestError(
            f"The inputs and outputs of {name} are not known here. Known are models of text (...Model, ForCausalLM, "
            "ForMaskedLM, ForSeq2SeqLM, ForSequenceClassification, ForTokenClassification) and ForImageClassification; "
            "for others give a card with --card."
        )
    return Signature(inputs=tuple(inputs), outputs=(output,))


def _logits(shape: tuple[int, ...]) -> TensorSpec:
    return TensorSpec(name="logits", datatype="FP32", shape=shape)


def _labels(config: dict[str, Any]) -> int:
    labels = config.get("id2label")
    return len(labels) if isinstance(labels, dict) and labels else _size(config, "num_labels", required=False) or 2


def _size(config: dict[str, Any], key: str, *, required: bool = True) -> int:
    """Return a size of the configuration, or of its part about text; 0 when it is not there."""
    inner = config.get("text_config")
    value = config.get(key) or (inner.get(key) if isinstance(inner, dict) else None)
    if type(value) is int and 0 < value < 1 << 31:
        return value
    if required:
        raise RequestError(f"{CONFIG_FILE} gives no size {key!r} (found {str(value)[:40]}).")
    return 0
