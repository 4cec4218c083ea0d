"""Five kinds of sources, each ingested by its job and trained on: files, pictures, a database, a bucket, and text.

One platform runs for all of them; servers are real.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import httpx
import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from lightmill.datasets.reading import read_rows
from lightmill.models.language_model import LanguageModel
from lightmill.records.references import AssetKind, parse_reference
from lightmill.registry import OpenVersion
from lightmill.serving.loading import load_model
from lightmill.settings import Settings
from lightmill.wiring import open_platform
from tests.platforms import BIN, TestPlatform, temporary_platform
from tests.postgres import postgres_server, why_no_postgres
from tests.seaweed import SeaweedServer, seaweed_server, why_no_seaweed

pytestmark = [pytest.mark.integration, pytest.mark.slow]
PEOPLE = 900
LANDS = ("DE", "FR", "IT")


@pytest.fixture(scope="module")
def seaweed() -> Iterator[SeaweedServer]:
    reason = why_no_seaweed()
    if reason:
        pytest.skip(reason)
    with seaweed_server() as server:
        yield server


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    reason = why_no_postgres()
    if reason:
        pytest.skip(reason)
    with postgres_server() as server:
        yield server.new_database()


@pytest.fixture(scope="module")
def platform(seaweed: SeaweedServer, database: str) -> Iterator[TestPlatform]:
    with ExitStack() as stack:
        tested = stack.enter_context(temporary_platform())
        sqlalchemy = database.replace("postgresql://", "postgresql+psycopg://")
        tested.environment.update(seaweed.environment() | {"PEOPLE_URL": sqlalchemy})
        tested.lightmill("up")
        yield tested


def people(seed: int, rows: int) -> list[dict[str, Any]]:
    """Rows with a number, a category, a missing value now and then, and personal data."""
    chance = Random(seed)
    found = []
    for n in range(rows):
        age, land = chance.gauss(40, 12), chance.choice(LANDS)
        found.append(
            {
                "id": n,
                "age": None if chance.random() < 0.05 else round(min(max(age, 1), 99), 2),
                "land": land,
                "mail": f"person{seed}.{n}@canary-mail.example",
                "note": f"call +49 151 {chance.randrange(10**7, 10**8)} or card 4111 1111 1111 1111",
                "buys": "yes" if age + 10 * LANDS.index(land) > 48 else "no",
            }
        )
    return found


PEOPLE_COLUMNS = [
    {"name": "age", "dtype": "float64", "max_nulls": 0.2, "minimum": 0, "maximum": 120},
    {"name": "land", "dtype": "string", "values": list(LANDS)},
    {"name": "mail", "dtype": "string", "role": "key", "tags": ["email"]},
    {"name": "note", "dtype": "string", "role": "text"},
    {"name": "buys", "dtype": "string", "role": "label", "values": ["no", "yes"]},
]
PEOPLE_SPEC = {
    "columns": PEOPLE_COLUMNS,
    "rules": {"out_of_range": "quarantine", "type": "quarantine", "unreadable": "quarantine", "missing": "drop"},
    "masking": {
        "name": "staff",
        "rules": [
            {"columns": ["mail"], "action": "pseudonym"},
            {"detectors": ["phone", "card"], "action": "redact"},
        ],
    },
    "split": {"by": "stratified", "seed": 3},
    "prepare": [
        {"step": "impute", "columns": ["age"], "with": "median"},
        {"step": "standardize", "columns": ["age"]},
        {"step": "one_hot", "columns": ["land"]},
    ],
}


def ingested(
    platform: TestPlatform, folder: Path, name: str, spec: dict[str, Any]
) -> tuple[dict[str, Any], OpenVersion]:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"name": name, **spec}))
    said = platform.run(BIN / "python", "jobs/ingest.py", path)
    result = json.loads(said.out.strip().splitlines()[-1])
    registry = open_platform(Settings(home=platform.home)).registry
    version = registry.open(registry.resolve(AssetKind.DATASET, parse_reference(result["dataset_version"])))
    secrets = [b"canary-mail", b"4111 1111", b"+49 151"]
    assert not any(secret in (said.out + said.err).encode() for secret in secrets)
    return result, version


def trained(platform: TestPlatform, folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    path = folder / f"{name}-train.yaml"
    spec = {
        "model": name,
        "dataset": f"{name}@latest",
        "architecture": {"name": "mlp", "arguments": {"hidden": [16]}},
        "epochs": 1,
        "batch_size": 32,
        "workers": 2,
        **changes,
    }
    path.write_text(yaml.safe_dump(spec))
    return json.loads(platform.run(BIN / "python", "jobs/train.py", path).out.strip().splitlines()[-1])


def answer_of(platform: TestPlatform, folder: Path, name: str, tensor: dict[str, Any]) -> dict[str, Any]:
    """Deploy a model and ask its endpoint over HTTP."""
    path = folder / f"{name}-endpoint.yaml"
    path.write_text(yaml.safe_dump({"name": name, "model": f"{name}@1"}))
    platform.lightmill("deploy", path)
    url, headers = f"{platform.url}/v2/models/{name}", {"X-API-Key": platform.key}
    answer = httpx.post(f"{url}/infer", json={"inputs": [tensor]}, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()["outputs"][0]


def rows_of(platform: TestPlatform, version: OpenVersion, group: str = "train") -> pa.Table:
    return read_rows(version, open_platform(Settings(home=platform.home)).location, group)


def test_json_lines_with_names_gaps_and_broken_rows(platform: TestPlatform, tmp_path: Path) -> None:
    lines = [json.dumps(row) for row in people(1, PEOPLE)]
    lines[10] = lines[10].replace('"age": ', '"age": 9')  # 9 before the number: out of range, or still a number
    lines[20] = (
        '{"id": 20, "age": "old", "land": "DE", "mail": "someone@canary-mail.example", "note": "", "buys": "no"}'
    )
    lines[30] = lines[30][:-9]
    (tmp_path / "people.jsonl").write_text("\n".join(lines) + "\n")
    source = {"format": "jsonl", "path": "people.jsonl", "unexpected": "ignore"}
    result, version = ingested(platform, tmp_path, "people", {"source": source, **PEOPLE_SPEC})
    profile = result["profile"]
    assert profile["rows_in"] == PEOPLE and sum(profile["quarantined"].values()) in (2, 3)
    assert profile["rows_kept"] == sum(profile["splits"].values()) == PEOPLE - sum(profile["quarantined"].values())
    table = rows_of(platform, version)
    assert table.column("features").type.list_size == 1 + len(LANDS)
    assert np.isfinite(np.stack(table.column("features").to_numpy())).all()
    everything = [rows_of(platform, version, split).to_pylist() for split in ("train", "validation", "test")]
    aside = [entry for entry in version.manifest.files if entry.group == "quarantine"]
    from lightmill.datasets.reading import read_file

    location = open_platform(Settings(home=platform.home)).location
    everything += [read_file(location, version.id, entry, None).to_pylist() for entry in aside]
    shown = json.dumps(everything, default=str) + version.read_file("profile.json").decode()
    assert [word for word in ("canary-mail", "4111 1111", "+49 151") if word in shown] == []
    assert profile["masked"]["policy"] == "staff"
    assert trained(platform, tmp_path, "people")["model_version"] == "people@1"


def test_a_table_of_postgresql(platform: TestPlatform, database: str, tmp_path: Path) -> None:
    rows = people(2, PEOPLE)
    with psycopg.connect(database, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE people (id bigint, age float8, land text, mail text, note text, buys text)")
        with cursor.copy("COPY people FROM STDIN") as copy:
            for row in rows:
                copy.write_row(tuple(row.values()))
    source = {"format": "sql", "url_environment": "PEOPLE_URL", "table": "people", "key": "id", "shards": 3}
    result, _ = ingested(platform, tmp_path, "sql-people", {"source": source, **PEOPLE_SPEC})
    assert result["profile"]["rows_kept"] == PEOPLE
    assert trained(platform, tmp_path, "sql-people")["model_version"] == "sql-people@1"


def test_three_parquet_files_in_a_bucket(platform: TestPlatform, seaweed: SeaweedServer, tmp_path: Path) -> None:
    for number in range(3):
        sink = io.BytesIO()
        rows = people(3 + number, PEOPLE // 3)
        pq.write_table(pa.Table.from_pylist(rows), sink)
        assert seaweed.request("PUT", f"/{seaweed.bucket}/people/{number}.parquet", sink.getvalue())[0] == 200
    path = f"s3://{seaweed.bucket}/people/*.parquet"
    source = {"format": "parquet", "path": path, "endpoint": seaweed.endpoint, "region": "us-east-1"}
    result, version = ingested(platform, tmp_path, "s3-people", {"source": source, **PEOPLE_SPEC})
    assert result["profile"]["rows_kept"] == PEOPLE
    assert version.manifest.dataset is not None and len(version.manifest.dataset.sources) == 3
    assert trained(platform, tmp_path, "s3-people")["model_version"] == "s3-people@1"


def test_a_folder_of_pictures(platform: TestPlatform, tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    for kind, brightness in (("dark", 60), ("light", 190)):
        (tmp_path / "pictures" / kind).mkdir(parents=True)
        for number in range(120):
            pixels = chance.integers(brightness - 50, brightness + 50, (9, 11), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / kind / f"{number}.png")
    (tmp_path / "pictures" / "dark" / "broken.png").write_bytes(b"\x89PNG no picture")
    spec = {
        "source": {"format": "images", "path": "pictures"},
        "columns": [
            {"name": "image", "dtype": "binary", "role": "image"},
            {"name": "path", "dtype": "string", "role": "key"},
            {"name": "label", "dtype": "string", "role": "label", "values": ["dark", "light"]},
        ],
        "rules": {"duplicates": "drop"},
        "features": {"name": "pixels", "shape": [8, 8, 1]},
        "prepare": [
            {"step": "image_decode", "column": "image", "mode": "L", "on_error": "null"},
            {"step": "filter", "where": "not is_null(image)"},
            {"step": "image_resize", "column": "image", "height": 8, "width": 8, "dtype": "float32"},
        ],
    }
    result, version = ingested(platform, tmp_path, "pictures", spec)
    assert result["profile"]["rows_in"] == 241 and result["profile"]["rows_kept"] == 240
    pixels = np.stack(rows_of(platform, version).column("features").to_numpy())
    assert pixels.shape[1] == 64 and 0 <= pixels.min() < pixels.max() <= 1
    assert trained(platform, tmp_path, "pictures")["model_version"] == "pictures@1"


def test_a_corpus_of_texts_tokenized_and_packed(platform: TestPlatform, tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="needs tokenizers (extra text)")
    (tmp_path / "texts").mkdir()
    chance = Random(5)
    words = ["".join(chance.choice("abcdefghij") for _ in range(chance.randrange(2, 9))) for _ in range(300)]
    texts = [" ".join(chance.choice(words) for _ in range(chance.randrange(5, 400))) for _ in range(60)]
    for number, text in enumerate(texts):
        (tmp_path / "texts" / f"{number:02d}.txt").write_text(text)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(vocab_size=400, special_tokens=["?", "|"]))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    spec = {
        "source": {"format": "text", "path": "texts", "unit": "document"},
        "columns": [
            {"name": "text", "dtype": "string", "role": "text"},
            {"name": "path", "dtype": "string", "role": "key"},
        ],
        "rules": {"duplicates": "drop"},
        "split": {"by": "random", "seed": 1},
        "keep_source_columns": False,
        "prepare": [
            {"step": "tokenize", "column": "text", "file": "tokenizer.json"},
            {"step": "pack", "length": 128, "separator": 1, "remainder": "drop"},
        ],
    }
    _, version = ingested(platform, tmp_path, "texts", spec)
    packed = rows_of(platform, version)
    ids = np.stack(packed.column("tokens").to_numpy())
    assert ids.shape[1] == 128 and ids.dtype == np.int32 and ids.max() < 400 and (ids == 1).any()
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump({"model": "t", "dataset": "texts@1", "architecture": {"name": "logistic"}}))
    refused = platform.run(BIN / "python", "jobs/train.py", path, check=False)
    assert refused.code == 2 and "label" in refused.out + refused.err and "causal_lm" in refused.out + refused.err
    small = {"name": "decoder", "arguments": {"width": 32, "layers": 2, "heads": 4, "kv_heads": 2}}
    result = trained(platform, tmp_path, "texts", architecture=small, objective="causal_lm", batch_size=4)
    assert result["model_version"] == "texts@1"
    metrics = result["metrics"]
    assert metrics["test_perplexity"] == pytest.approx(np.exp(metrics["test_loss"]))
    assert metrics["validation_perplexity"] < 450 and metrics["tokens_per_second"] > 0
    opened = open_platform(Settings(home=platform.home))
    model = opened.registry.resolve(AssetKind.MODEL, parse_reference("texts@1"))
    loaded = load_model(opened.location, model)
    card = loaded.card
    assert isinstance(loaded, LanguageModel) and card.tokens is not None and card.classes == ()
    found = loaded.predict(ids[:2].astype(np.int64)).logits
    assert found.shape == (2, 128, card.architecture.arguments["vocabulary"])
    tensor = {"name": "tokens", "shape": [2, 128], "datatype": "INT64", "data": ids[:2].tolist()}
    answer = answer_of(platform, tmp_path, "texts", tensor)
    assert (answer["name"], answer["shape"]) == ("logits", list(found.shape))
    np.testing.assert_allclose(np.reshape(answer["data"], found.shape), found, rtol=1e-4, atol=1e-4)
