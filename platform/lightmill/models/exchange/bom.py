"""The bill of materials of an export: CycloneDX 1.6 JSON with a machine-learning model and its model card.

Written by hand, since cyclonedx-python-lib models no model cards; its strict validator accepts the result.
Source: https://cyclonedx.org/docs/1.6/json/
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from lightmill.models.exchange.extras import versions_of
from lightmill.models.exchange.target import ExportedFile
from lightmill.records.assets import Manifest, ModelCard, Provenance
from lightmill.records.references import VersionId
from lightmill.records.signature import TensorSpec

BOM_FILE = "bom.cdx.json"
SPEC_VERSION = "1.6"
_NAMESPACE = uuid.UUID("5d6f5cb4-6a26-5c61-9f0a-3a5e6c6f5f10")


def bill_of_materials(id: VersionId, manifest: Manifest, files: list[ExportedFile], form: str) -> bytes:
    """Return the document for a version exported as `files`; the same export gives the same bytes."""
    model = f"model:{id.name}@{id.seq}"
    components = [_file(file) for file in files]
    components += _datasets(manifest.provenance) + _packages(manifest.provenance)
    document = {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC_VERSION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": uuid.uuid5(_NAMESPACE, f"{id.digest}/{form}").urn,
        "version": 1,
        "metadata": {
            "timestamp": manifest.created,
            "tools": {"components": [_tool()]},
            "component": _model(model, id, manifest, files),
        },
        "components": components,
        "dependencies": [
            {"ref": model, "dependsOn": [component["bom-ref"] for component in components]},
            *({"ref": component["bom-ref"]} for component in components),
        ],
    }
    return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"


def _model(ref: str, id: VersionId, manifest: Manifest, files: list[ExportedFile]) -> dict[str, Any]:
    weights = [file for file in files if file.path.endswith((".safetensors", ".onnx"))]
    properties = {"lightmill:record": id.digest, "lightmill:tensors": str(len(manifest.tensors))}
    found: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": ref,
        "name": id.name,
        "version": str(id.seq),
        "properties": [{"name": name, "value": value} for name, value in properties.items()],
    }
    if len(weights) == 1:
        found["hashes"] = [_hash(weights[0].sha256)]
    if manifest.model:
        found["modelCard"] = _card(manifest.model, manifest.provenance)
    return found


def _card(card: ModelCard, origin: Provenance) -> dict[str, Any]:
    arguments = card.architecture.arguments
    parameters: dict[str, Any] = {
        "architectureFamily": card.architecture.name,
        "modelArchitecture": str(arguments.get("class", card.architecture.name)),
        "inputs": [_shape(spec) for spec in card.signature.inputs],
        "outputs": [_shape(spec) for spec in card.signature.outputs],
    }
    if card.classes:
        parameters["task"] = "classification"
    if origin.dataset:
        parameters["approach"] = {"type": "supervised"}
        parameters["datasets"] = [{"ref": _dataset_ref(origin.dataset)}]
    found: dict[str, Any] = {"modelParameters": parameters}
    if card.metrics:
        metrics = [{"type": name, "value": f"{value:.6g}"} for name, value in card.metrics.items()]
        found["quantitativeAnalysis"] = {"performanceMetrics": metrics}
    found["properties"] = [
        {"name": f"lightmill:architecture:{name}", "value": json.dumps(value)} for name, value in arguments.items()
    ]
    return found


def _shape(spec: TensorSpec) -> dict[str, str]:
    return {"format": f"{spec.name}: {spec.datatype} {list(spec.shape)}"}


def _file(file: ExportedFile) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": f"file:{file.path}",
        "name": file.path,
        "hashes": [_hash(file.sha256)],
    }


def _datasets(origin: Provenance) -> list[dict[str, Any]]:
    if origin.dataset is None:
        return []
    return [
        {
            "type": "data",
            "bom-ref": _dataset_ref(origin.dataset),
            "name": origin.dataset.name,
            "version": str(origin.dataset.seq),
            "data": [{"type": "dataset", "name": str(origin.dataset)}],
            "properties": [{"name": "lightmill:record", "value": origin.dataset.digest}],
        }
    ]


def _dataset_ref(id: VersionId) -> str:
    return f"dataset:{id}"


def _packages(origin: Provenance) -> list[dict[str, Any]]:
    """List the packages that made the version."""
    return [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{name}@{number}",
            "name": name,
            "version": number,
            "purl": f"pkg:pypi/{name.lower().replace('_', '-')}@{number.replace('+', '%2B')}",
        }
        for name, number in origin.packages.items()
    ]


def _tool() -> dict[str, Any]:
    return {
        "type": "application",
        "name": "lightmill",
        "version": versions_of(("lightmill",)).get("lightmill", "0"),
    }


def _hash(sha256: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": sha256}
