"""Nothing of an asset is readable on the store: names, classes, columns, values and weights are hunted for."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from lightmill.records.assets import Provenance
from lightmill.registry import Content
from lightmill.registry.tensors import plain_tensors
from tests.attacks.scene import dataset_card, publish_dataset, signed_payload
from tests.unit.registry.world import MODEL, World, card, publish

TEXTS = [
    "canaryassetname",
    "canarytensorname",
    "canaryclassname",
    "canarycolumnname",
    "canaryfeaturename",
    "canarycellvalue",
    "canaryfilename",
    "canaryfilecontent",
    "canaryprovenance",
]
WEIGHTS = np.random.default_rng(5).normal(size=4096).astype(np.float32)
NUMBERS = np.random.default_rng(6).normal(size=512)


def needles() -> dict[str, bytes]:
    """What must not be found: texts in several spellings, and eight consecutive raw numbers from many places."""
    found = {}
    for text in TEXTS:
        found[text] = text.encode()
        found[f"{text} in UTF-16"] = text.encode("utf-16-le")
        found[f"{text} in hex"] = text.encode().hex().encode()
        for shift in range(3):
            found[f"{text} in base64, shift {shift}"] = base64.b64encode(b"\0" * shift + text.encode())[4:-4]
    for dtype in ("<f4", "<f2", "<f8"):
        values = WEIGHTS.astype(dtype)
        for start in range(0, len(values) - 4, 101):
            found[f"weights {dtype} {start}"] = values[start : start + 4].tobytes()
    for start in range(0, len(NUMBERS) - 4, 37):
        found[f"cells {start}"] = NUMBERS[start : start + 4].tobytes()
    return found


def hits(root: Path) -> set[str]:
    """Scan every file and every path below a folder, and what signed files carry in base64."""
    wanted, found = needles(), set()
    for path in root.rglob("*"):
        haystacks = [str(path.relative_to(root)).encode()]
        if path.is_file():
            data = path.read_bytes()
            haystacks.append(data)
            if b'"payload"' in data:
                haystacks.append(json.dumps(signed_payload(data)).encode())
        found |= {name for name, needle in wanted.items() for hay in haystacks if needle in hay}
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("canaries"))
    publish_dataset(
        world.registry,
        "canaryassetname",
        pa.table(
            {
                "canarycolumnname": pa.array(NUMBERS),
                "words": ["canarycellvalue"] * len(NUMBERS),
                "row_id": range(len(NUMBERS)),
            }
        ),
        dataset_card(("canarycolumnname",), ("canaryclassname",)),
    )
    draft = world.registry.begin(MODEL, "canaryassetname")
    tensors = draft.seal_tensors(plain_tensors({"canarytensorname": torch.from_numpy(WEIGHTS)}))
    files = draft.seal_files({"canaryfilename": b"canaryfilecontent" * 50})
    content = Content(
        tensors=tensors.tensors,
        files=files.files,
        blobs=(*tensors.blobs, *files.blobs),
        model=card(("canaryclassname", "b", "c"), "canaryfeaturename"),
        provenance=Provenance(run="canaryprovenance", spec={"canaryprovenance": "canaryprovenance"}),
    )
    summary = world.registry.commit(draft, content)
    assert world.registry.open(summary.id).read_file("canaryfilename").startswith(b"canaryfilecontent")
    world.registry.set_alias(MODEL, "canaryassetname", "champion", 1)
    publish(world.registry, "canaryassetname", {"canarytensorname": torch.from_numpy(WEIGHTS)})
    return world


def test_no_canary_is_on_the_store(world: World) -> None:
    assert sum(path.is_file() for path in world.root.rglob("*")) > 12
    assert hits(world.root) == set()


def test_a_draft_that_dies_leaves_no_canary_either(world: World) -> None:
    draft = world.registry.begin(MODEL, "canaryassetname")
    draft.seal_tensors(plain_tensors({"canarytensorname": torch.from_numpy(WEIGHTS)}))
    assert hits(world.root) == set()
    draft.release()


def test_the_hunt_finds_what_lies_open(tmp_path: Path) -> None:
    (tmp_path / "control").write_bytes(b"\x07" + " ".join(TEXTS).encode() + WEIGHTS.tobytes() + NUMBERS.tobytes())
    found = hits(tmp_path)
    assert set(TEXTS) <= found
    assert {f"weights <f4 {start}" for start in range(0, len(WEIGHTS) - 4, 101)} <= found
    assert {f"cells {start}" for start in range(0, len(NUMBERS) - 4, 37)} <= found


def test_the_hunt_finds_what_only_base64_hides(tmp_path: Path) -> None:
    for shift in range(3):
        hidden = base64.b64encode(b"x" * shift + b"canarytensorname and more")
        (tmp_path / "control").write_bytes(hidden)
        assert any(name.startswith("canarytensorname in base64") for name in hits(tmp_path)), shift


def test_equal_weights_are_never_equal_on_the_store(tmp_path: Path) -> None:
    world = World(tmp_path)
    state = {"w": torch.from_numpy(WEIGHTS)}
    for _ in range(2):
        publish(world.registry, state=state)
    blobs = world.names("b/")
    assert len(blobs) == 2
    first, second = (world.store.get(name) for name in blobs)
    assert len(first) == len(second)
    assert sum(a == b for a, b in zip(first[128:], second[128:], strict=True)) < len(first) * 0.02


def test_the_catalog_holds_no_key_of_a_version(world: World) -> None:
    """The catalog may name things; it must not open them."""
    from lightmill.records.references import parse_reference

    version = world.registry.open(world.registry.resolve(MODEL, parse_reference("canaryassetname@1")))
    keys = [blob.key for blob in version.manifest.blobs] + [version._key.hex()]
    contents = b"".join(path.read_bytes() for path in world.folder.glob("catalog.db*"))
    assert b"canaryassetname" in contents
    for key in keys:
        assert key.encode() not in contents and bytes.fromhex(key) not in contents
        assert base64.b64encode(bytes.fromhex(key)) not in contents
