"""From files to a version and back: every byte the same, nothing taken in that was not meant to be."""

from __future__ import annotations

import hashlib
import json
import pickle
import tracemalloc
from pathlib import Path

import pytest
import torch

from lightmill.errors import NotFoundError, RequestError
from lightmill.models.exchange.exporting import ExportFormat, export_version
from lightmill.models.exchange.importing import import_model
from lightmill.models.exchange.streams import GROUP_BYTES
from lightmill.models.exchange.verifying import verify_version
from lightmill.records.jobs import Progress
from lightmill.records.references import Reference
from lightmill.registry.sealing import seal_threads
from tests.unit.models.exchange.samples import CONFIG, card_of, folder_of, same_state, save, sharded_folder, state
from tests.unit.registry.world import MODEL, World, card


def exported(world: World, name: str, place: Path, form: ExportFormat = ExportFormat.HUGGINGFACE) -> Path:
    id = world.registry.resolve(MODEL, Reference(name=name))
    export_version(world.registry, id, place, form, signing_key=None)
    return place


def test_a_plain_file_becomes_a_version_and_comes_out_byte_by_byte(world: World, place: Path) -> None:
    path = save(place / "weights.safetensors", lightmill="no", note="kept as it is")
    seen: list[Progress] = []
    done = import_model(world.registry, path, "plain", alias="champion", report=seen.append)
    assert (done.format, done.tensors, done.left_out) == ("safetensors", 5, ())
    assert same_state(world.registry, done.version.id)
    assert world.registry.aliases(MODEL, "plain") == {"champion": 1}
    assert (exported(world, "plain", place / "out") / "model.safetensors").read_bytes() == path.read_bytes()
    assert seen[-1].done == sum(value.nbytes for value in state().values())
    manifest = world.registry.open(done.version.id).manifest
    assert manifest.model is None
    source = manifest.provenance.spec["import"]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    file = {"name": "weights.safetensors", "size_bytes": path.stat().st_size, "sha256": digest}
    assert source == {"source": path.name, "format": "safetensors", "files": [file], "left_out": []}
    assert str(place) not in manifest.model_dump_json()
    assert {"lightmill", "torch", "safetensors"} >= manifest.provenance.packages.keys() & {"torch", "safetensors"}


def test_a_card_makes_a_plain_file_a_model_that_can_be_built(world: World, place: Path) -> None:
    path = save(place / "w.safetensors", {"weight": torch.ones(3, 4), "bias": torch.zeros(3)})
    done = import_model(world.registry, path, "m", card=card())
    assert card_of(world.registry, done.version) == card()


def test_a_folder_becomes_a_version_with_its_card(world: World, place: Path) -> None:
    folder = folder_of(place / "bert")
    (folder / "modeling.py").write_text("raise SystemExit")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle beside safetensors")
    (folder / ".git").mkdir()
    done = import_model(world.registry, folder, "bert")
    assert done.left_out == ("modeling.py", "pytorch_model.bin")
    assert same_state(world.registry, done.version.id)
    found = card_of(world.registry, done.version)
    assert found.architecture.arguments == {"class": "BertModel", "dtype": "float32"}
    assert [spec.name for spec in found.signature.inputs] == ["input_ids", "attention_mask"]
    assert found.signature.outputs[0].shape == (-1, -1, 8)
    assert found.metrics == {"parameters": 24 + 4 + 6 + 5}
    out = exported(world, "bert", place / "out")
    kept = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".py", ".bin")]
    assert [p for p in kept if (out / p.relative_to(folder)).read_bytes() != p.read_bytes()] == []
    assert {path.name for path in out.rglob("*")} - {path.name for path in kept} == {
        "1_Pooling",
        "LIGHTMILL.md",
        "bom.cdx.json",
    }


def test_shards_keep_their_headers_and_come_out_byte_by_byte(world: World, place: Path) -> None:
    folder = sharded_folder(place / "sharded")
    done = import_model(world.registry, folder, "m")
    assert same_state(world.registry, done.version.id)
    assert verify_version(world.registry, done.version.id).files == 8
    for form in (ExportFormat.HUGGINGFACE, ExportFormat.SAFETENSORS):
        out = exported(world, "m", place / form, form)
        for path in folder.glob("model*"):
            assert (out / path.name).read_bytes() == path.read_bytes()
    again = import_model(world.registry, place / "huggingface", "m")
    assert same_state(world.registry, again.version.id)
    first, second = (world.registry.open(summary.id).manifest for summary in (done.version, again.version))
    assert {f.path: f.sha256 for f in first.files} == {f.path: f.sha256 for f in second.files}


def test_an_export_of_an_own_architecture_comes_back_with_its_card(world: World, place: Path) -> None:
    path = save(place / "w.safetensors", {"weight": torch.ones(3, 4), "bias": torch.zeros(3)})
    import_model(world.registry, path, "m", card=card(classes=("a", "é", "c")))
    done = import_model(world.registry, exported(world, "m", place / "out"), "again")
    assert card_of(world.registry, done.version) == card(classes=("a", "é", "c"))


def test_memory_holds_a_group_and_not_the_file(world: World, place: Path) -> None:
    """24 tensors of 8 MiB, zeros in a sparse file."""
    size, count = 8 << 20, 24
    path = place / "large.safetensors"
    header = json.dumps(
        {f"t{n:02}": {"dtype": "U8", "shape": [size], "data_offsets": [n * size, (n + 1) * size]} for n in range(count)}
    ).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + count * size)
    tracemalloc.start()
    import_model(world.registry, path, "large")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"peak {peak >> 20} MiB for a file of {count * size >> 20} MiB")
    # The group, and a sealed tensor in each of the threads that seal.
    assert peak < GROUP_BYTES + (1 + seal_threads()) * size + (8 << 20) < count * size


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({**CONFIG, "architectures": []}, "names no class"),
        ({**CONFIG, "architectures": ["os.system"]}, "names no class"),
        ({**CONFIG, "architectures": ["WhisperForAudio"]}, "not known here"),
        ({key: value for key, value in CONFIG.items() if key != "hidden_size"}, "'dim'"),
        ({**CONFIG, "hidden_size": -4}, "'dim'"),
    ],
)
def test_a_configuration_that_says_too_little_is_refused(
    world: World, place: Path, config: dict[str, object], named: str
) -> None:
    with pytest.raises(RequestError) as caught:
        import_model(world.registry, folder_of(place / "m", config), "m")
    assert named in caught.value.message


@pytest.mark.parametrize(
    ("name", "config", "output", "shape", "classes"),
    [
        ("LlamaForCausalLM", {"vocab_size": 9}, "logits", (-1, -1, 9), ()),
        ("GPT2LMHeadModel", {"vocab_size": 9}, "logits", (-1, -1, 9), ()),
        ("BertForMaskedLM", {"vocab_size": 9}, "logits", (-1, -1, 9), ()),
        ("T5ForConditionalGeneration", {"vocab_size": 9}, "logits", (-1, -1, 9), ()),
        ("BertForSequenceClassification", {"id2label": {"1": "no", "0": "yes"}}, "logits", (-1, 2), ("yes", "no")),
        ("BertForTokenClassification", {"num_labels": 5}, "logits", (-1, -1, 5), ()),
        ("ViTForImageClassification", {"image_size": 4, "num_labels": 3}, "logits", (-1, 3), ()),
        ("DistilBertModel", {"vocab_size": 9, "dim": 6}, "last_hidden_state", (-1, -1, 6), ()),
        ("Gemma3Model", {"text_config": {"vocab_size": 9, "hidden_size": 6}}, "last_hidden_state", (-1, -1, 6), ()),
    ],
)
def test_the_signature_follows_the_class(
    world: World,
    place: Path,
    name: str,
    config: dict[str, object],
    output: str,
    shape: tuple[int, ...],
    classes: tuple[str, ...],
) -> None:
    folder = folder_of(place / "m", {"architectures": [name], **config})
    found = card_of(world.registry, import_model(world.registry, folder, "m").version)
    assert (found.signature.outputs[0].name, found.signature.outputs[0].shape) == (output, shape)
    assert found.classes == classes


def test_nothing_is_found_where_nothing_is(world: World, place: Path) -> None:
    (place / "empty").mkdir()
    (place / "text.txt").write_text("hello")
    for path, kind in (
        (place / "none", NotFoundError),
        (place / "empty", NotFoundError),
        (place / "text.txt", RequestError),
    ):
        with pytest.raises(kind):
            import_model(world.registry, path, "m")
    assert world.names("l/") == []


def test_a_failed_import_leaves_no_version_and_no_lease(world: World, place: Path) -> None:
    folder = sharded_folder(place / "m")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["ids"] = "model-00001-of-00002.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(RequestError, match="differ"):
        import_model(world.registry, folder, "m")
    with pytest.raises(RequestError, match="cannot be an alias"):
        import_model(world.registry, folder_of(place / "n"), "m", alias="latest")
    assert world.registry.latest(MODEL, "m") == 0
    assert world.names("l/") == []


# -- pickles -----------------------------------------------------------------------


def test_a_pickle_is_refused_and_the_error_says_what_to_do(world: World, place: Path) -> None:
    for name in ("m.bin", "m.pt", "m.pkl", "m.pth", "m.ckpt"):
        torch.save(state(), place / name)
        with pytest.raises(RequestError) as caught:
            import_model(world.registry, place / name, "m")
        assert "pickle" in caught.value.message and "--convert-pickle" in caught.value.message
    folder = folder_of(place / "m")
    (folder / "model.safetensors").unlink()
    torch.save(state(), folder / "pytorch_model.bin")
    with pytest.raises(RequestError, match=r"pytorch_model\.bin"):
        import_model(world.registry, folder, "m")


def test_a_pickle_is_converted_behind_fences(world: World, place: Path) -> None:
    path = place / "model.ckpt"
    torch.save({"state_dict": state(), "epoch": 3}, path)
    done = import_model(world.registry, path, "m", convert_pickle=True)
    assert same_state(world.registry, done.version.id)
    assert done.files[0].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
def test_a_folder_of_pickled_shards_becomes_safetensors_with_an_index(world: World, place: Path) -> None:
    folder = folder_of(place / "m", {**CONFIG, "dtype": "float32"})
    (folder / "model.safetensors").unlink()
    names = sorted(state())
    shards = {f"pytorch_model-0000{n}-of-00002.bin": held for n, held in ((1, names[:3]), (2, names[3:]))}
    for shard, held in shards.items():
        torch.save({name: state()[name] for name in held}, folder / shard)
    weight_map = {name: shard for shard, held in shards.items() for name in held}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    done = import_model(world.registry, folder, "m", convert_pickle=True)
    assert same_state(world.registry, done.version.id)
    assert card_of(world.registry, done.version).metrics == {"parameters": 39}
    again = import_model(world.registry, exported(world, "m", place / "out"), "again")
    assert same_state(world.registry, again.version.id)
    assert again.left_out == ()


@pytest.mark.slow
def test_an_old_pickle_that_is_no_zip_is_converted_too(world: World, place: Path) -> None:
    torch.save(state(), place / "old.pt", _use_new_zipfile_serialization=False)
    done = import_model(world.registry, place / "old.pt", "m", convert_pickle=True)
    assert same_state(world.registry, done.version.id)


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps([1, 2]), pickle.dumps({"a": 1})])
def test_a_pickle_without_tensors_is_refused(world: World, place: Path, content: bytes) -> None:
    (place / "m.bin").write_bytes(content)
    with pytest.raises(RequestError, match="was not converted"):
        import_model(world.registry, place / "m.bin", "m", convert_pickle=True)
