"""Exports: plain, private, whole or absent; signed for the tools of others, with a bill of materials."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lightmill.errors import ConflictError, IntegrityError, NotFoundError, RequestError
from lightmill.models.answers import signature_of
from lightmill.models.architectures import seeded
from lightmill.models.classifier import Classifier
from lightmill.models.exchange.exporting import Exported, ExportFormat, export_version
from lightmill.models.exchange.importing import import_model
from lightmill.models.exchange.signing import export_key, public_key_file
from lightmill.models.exchange.verifying import verify_export
from lightmill.records.assets import CodeState, ModelCard, Provenance, VersionSummary
from lightmill.records.references import AssetKind, VersionId
from lightmill.records.signature import Architecture, Preprocessing, Standardize, TensorSpec
from lightmill.registry.names import blob_name
from lightmill.registry.tensors import load_into_module
from tests.unit.models.exchange.samples import folder_of, save
from tests.unit.registry.world import World, publish, seal

CLASSES = tuple("abcdefghij")
ARCHITECTURES: dict[str, dict[str, int | float | str | bool | list[int]]] = {
    "mlp": {"hidden": [16], "dropout": 0.1},
    "logistic": {},
    "convnet": {"image": [1, 8, 8], "channels": [2, 3], "hidden": 8},
}


def card_of(name: str) -> ModelCard:
    standardize = Standardize(mean=tuple(n / 64 for n in range(64)), scale=tuple(1 + n / 8 for n in range(64)))
    return ModelCard(
        architecture=Architecture(name=name, arguments={"inputs": 64, "classes": 10, **ARCHITECTURES[name]}),
        preprocessing=Preprocessing(steps=(standardize,)),
        signature=signature_of(TensorSpec(name="image", datatype="FP32", shape=(8, 8)), 10),
        classes=CLASSES,
        metrics={"test_accuracy": 0.9375, "parameters": 1234.0},
    )


def publish_classifier(world: World, name: str = "mlp") -> VersionSummary:
    model = card_of(name)
    return publish(world.registry, name, dict(seeded(1, model.architecture).state_dict()), model)


def publish_with_lineage(world: World) -> VersionSummary:
    dataset = VersionId(kind=AssetKind.DATASET, name="digits", seq=3, digest="ab" * 32)
    model = card_of("mlp")
    draft = world.registry.begin(AssetKind.MODEL, "digits")
    content = seal(draft, dict(seeded(1, model.architecture).state_dict()), model)
    origin = Provenance(dataset=dataset, run="run-7", code=CodeState(commit="c0ffee"), packages={"torch": "2.13.0+cpu"})
    fields = {name: getattr(content, name) for name in content.__slots__} | {"provenance": origin}
    return world.registry.commit(draft, type(content)(**fields))


def export(world: World, id: VersionId, folder: Path, form: str = "huggingface", *, sign: bool = False) -> Exported:
    key = export_key(world.folder / "keys") if sign else None
    return export_version(world.registry, id, folder, ExportFormat(form), signing_key=key)


def modes(folder: Path) -> set[tuple[str, int]]:
    places = [folder, *folder.rglob("*")]
    return {("folder" if p.is_dir() else "file", stat.S_IMODE(p.stat().st_mode)) for p in places}


def test_an_export_is_for_its_owner_alone(world: World, place: Path) -> None:
    done = import_model(world.registry, folder_of(place / "m"), "m")
    export(world, done.version.id, place / "new" / "out")
    assert modes(place / "new" / "out") == {("folder", 0o700), ("file", 0o600)}
    assert [path.name for path in (place / "new").iterdir()] == ["out"]


def test_an_export_never_overwrites(world: World, place: Path) -> None:
    id = publish_classifier(world).id
    (place / "full").mkdir()
    (place / "full" / "precious").write_text("1")
    (place / "file").write_text("2")
    (place / "empty").mkdir()
    (place / "link").symlink_to(place / "empty")
    for name in ("full", "file", "link"):
        with pytest.raises(ConflictError, match="never overwrites"):
            export(world, id, place / name)
    assert [path.name for path in (place / "full").iterdir()] == ["precious"]
    export(world, id, place / "empty")
    assert (place / "empty" / "model.safetensors").is_file()


def test_damage_leaves_no_folder_at_all(world: World, place: Path) -> None:
    done = import_model(world.registry, folder_of(place / "m"), "m")
    blob = blob_name(world.registry.open(done.version.id).manifest.blobs[-1].id)
    data = bytearray(world.path(blob).read_bytes())
    data[200] ^= 1
    world.path(blob).write_bytes(data)
    with pytest.raises(IntegrityError, match=blob):
        export(world, done.version.id, place / "out")
    assert sorted(path.name for path in place.iterdir()) == ["m"]


def test_the_readme_tells_card_and_lineage(world: World, place: Path) -> None:
    summary = publish_with_lineage(world)
    export(world, summary.id, place / "out")
    text = (place / "out" / "README.md").read_text()
    for said in ("# digits, version 1", "test_accuracy | 0.9375", "digits@3", "run-7", "c0ffee", summary.id.digest):
        assert said in text
    for said in ("input `image` | FP32 [any, 8, 8]", "standardize", "hidden = [16]", "plain"):
        assert said in text


def test_formats_hold_what_they_promise(world: World, place: Path) -> None:
    id = publish_classifier(world).id
    done = export(world, id, place / "hf")
    assert {file.path for file in done.files} == {"model.safetensors", "config.json", "README.md", "bom.cdx.json"}
    assert json.loads((place / "hf" / "config.json").read_text())["lightmill"]["classes"] == list(CLASSES)
    done = export(world, id, place / "st", "safetensors")
    assert {file.path for file in done.files} == {"model.safetensors", "README.md", "bom.cdx.json"}
    assert "not encrypted" in done.warning


def test_a_version_without_a_file_of_weights_is_not_exported(world: World, place: Path) -> None:
    draft = world.registry.begin(AssetKind.MODEL, "bare")
    content = seal(draft, {"a": torch.ones(2)})
    fields = {name: getattr(content, name) for name in content.__slots__} | {"files": ()}
    summary = world.registry.commit(draft, type(content)(**fields))
    with pytest.raises(NotFoundError, match=r"no \.safetensors file"):
        export(world, summary.id, place / "out")
    assert list(place.iterdir()) == []


# -- the bill of materials ---------------------------------------------------------


@pytest.mark.parametrize("source", ["lineage", "imported", "plain"])
def test_the_strict_validator_accepts_the_bill_of_materials(world: World, place: Path, source: str) -> None:
    validation = pytest.importorskip("cyclonedx.validation.json", reason="needs cyclonedx-python-lib (extra exchange)")
    schema = pytest.importorskip("cyclonedx.schema")
    if source == "lineage":
        id = publish_with_lineage(world).id
    elif source == "imported":
        id = import_model(world.registry, folder_of(place / "m"), "m").version.id
    else:
        id = import_model(world.registry, save(place / "m.safetensors"), "m").version.id
    export(world, id, place / "out")
    text = (place / "out" / "bom.cdx.json").read_text()
    problem = validation.JsonStrictValidator(schema.SchemaVersion.V1_6).validate_str(text)
    assert problem is None, problem
    broken = text.replace('"machine-learning-model"', '"machine-learning-mode"')
    assert validation.JsonStrictValidator(schema.SchemaVersion.V1_6).validate_str(broken) is not None


def test_the_bill_of_materials_lists_model_dataset_packages_and_hashes(world: World, place: Path) -> None:
    done = export(world, publish_with_lineage(world).id, place / "out")
    bom = json.loads((place / "out" / "bom.cdx.json").read_text())
    model = bom["metadata"]["component"]
    weights = next(file for file in done.files if file.path == "model.safetensors")
    assert model["type"] == "machine-learning-model"
    assert model["hashes"] == [{"alg": "SHA-256", "content": weights.sha256}]
    assert model["modelCard"]["modelParameters"]["datasets"] == [{"ref": "dataset:digits@3"}]
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert {"type": "test_accuracy", "value": "0.9375"} in metrics
    assert [(c["type"], c["name"]) for c in bom["components"]] == [
        ("file", "model.safetensors"),
        ("file", "config.json"),
        ("file", "README.md"),
        ("data", "digits"),
        ("library", "torch"),
    ]
    assert bom["components"][-1]["purl"] == "pkg:pypi/torch@2.13.0%2Bcpu"


# -- signatures --------------------------------------------------------------------


@pytest.fixture
def signed(world: World, place: Path) -> Path:
    pytest.importorskip("model_signing", reason="needs model-signing (extra exchange)")
    done = import_model(world.registry, folder_of(place / "m"), "m")
    export(world, done.version.id, place / "out", sign=True)
    return place / "out"


def command_line(folder: Path, key: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "model_signing", "verify", "key", str(folder)),
            *("--signature", str(folder / "model.sig"), "--public_key", str(key), "--no-ignore-git-paths"),
        ],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_the_tool_of_others_verifies_the_signature(world: World, signed: Path) -> None:
    done = command_line(signed, public_key_file(world.folder / "keys"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout.lower()
    (signed / "config.json").write_text("{}")
    done = command_line(signed, public_key_file(world.folder / "keys"))
    assert done.returncode != 0 and "config.json" in done.stdout + done.stderr


def test_a_folder_is_verified_file_by_file(world: World, signed: Path) -> None:
    key = public_key_file(world.folder / "keys")
    done = verify_export(signed, key)
    assert (done.files, done.bytes) == (
        len([p for p in signed.rglob("*") if p.is_file()]),
        sum(p.stat().st_size for p in signed.rglob("*") if p.is_file()),
    )
    assert (signed / "model.sig.pub").read_bytes() == key.read_bytes()


@pytest.mark.parametrize(
    "attack", ["change", "add", "hide in git's names", "remove", "rename", "no signature", "forge"]
)
def test_whatever_is_done_to_a_signed_folder_is_noticed(world: World, signed: Path, attack: str) -> None:
    key = public_key_file(world.folder / "keys")
    match attack:
        case "change":
            path = signed / "model.safetensors"
            path.write_bytes(path.read_bytes()[:-1] + b"!")
        case "add":
            (signed / "modeling.py").write_text("import os")
        case "hide in git's names":
            (signed / ".gitattributes").write_text("x")
        case "remove":
            (signed / "vocab.txt").unlink()
        case "rename":
            (signed / "vocab.txt").rename(signed / "merges.txt")
        case "no signature":
            (signed / "model.sig").unlink()
        case "forge":
            (world.folder / "other").mkdir()
            (signed / "model.sig").unlink()
            from lightmill.models.exchange.signing import sign_folder

            sign_folder(signed, export_key(world.folder / "other"))
    with pytest.raises(NotFoundError if attack == "no signature" else IntegrityError):
        verify_export(signed, key)


def test_the_key_for_exports_is_made_once_and_is_its_owner_s(world: World) -> None:
    keys = world.folder / "keys"
    with pytest.raises(NotFoundError, match="nothing was exported"):
        public_key_file(keys)
    path = export_key(keys)
    first = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert export_key(keys).read_bytes() == first
    assert b"PRIVATE" not in public_key_file(keys).read_bytes()
    path.chmod(0o644)
    with pytest.raises(RequestError, match="chmod 600"):
        export_key(keys)


# -- ONNX --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", *(pytest.param(n, marks=pytest.mark.slow) for n in ("convnet", "logistic"))])
def test_onnx_gives_what_the_endpoint_gives(world: World, place: Path, name: str) -> None:
    for module in ("onnx", "onnxscript"):
        pytest.importorskip(module, reason="needs the extra onnx")
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    id = publish_classifier(world, name).id
    done = export(world, id, place / "out", "onnx")
    assert done.difference is not None and done.difference < 1e-4
    assert {file.path for file in done.files} == {"model.onnx", "config.json", "README.md", "bom.cdx.json"}
    assert modes(place / "out") == {("folder", 0o700), ("file", 0o600)}
    module = seeded(0, card_of(name).architecture)
    load_into_module(world.registry.open(id), module)
    features = np.random.default_rng(5).normal(3, 2, size=(29, 8, 8)).astype(np.float32)
    expected = Classifier(card_of(name), module).predict(features)
    session = runtime.InferenceSession(str(place / "out" / "model.onnx"), providers=["CPUExecutionProvider"])
    probabilities, label = session.run(["probabilities", "label"], {"image": features})
    assert np.abs(probabilities - expected.probabilities).max() < 1e-4
    assert np.array_equal(label, expected.label)


def test_onnx_is_for_own_architectures(world: World, place: Path) -> None:
    done = import_model(world.registry, folder_of(place / "m"), "m")
    with pytest.raises(RequestError, match="convnet, logistic, mlp"):
        export(world, done.version.id, place / "out", "onnx")
    assert not (place / "out").exists()
