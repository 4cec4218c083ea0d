"""Hostile models: what comes from outside runs nothing, fills nothing and reaches nothing."""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from lightmill.errors import LightmillError, RequestError
from lightmill.models.exchange.exporting import ExportFormat, export_version
from lightmill.models.exchange.importing import import_model
from lightmill.models.exchange.loading import load_transformers
from lightmill.models.exchange.pickles import convert
from lightmill.records.assets import FileEntry
from lightmill.registry import Content
from tests.unit.models.exchange.samples import CONFIG, folder_of, save, sharded_folder, state
from tests.unit.registry.world import MODEL, World, card, seal


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "world")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    found = tmp_path / "outside"
    found.mkdir()
    return found


def refused(world: World, path: Path, *, convert_pickle: bool = False) -> str:
    """Import, see that it is refused and nothing stays behind, and return what was said."""
    with pytest.raises(RequestError) as caught:
        import_model(world.registry, path, "m", convert_pickle=convert_pickle)
    assert world.registry.latest(MODEL, "m") == 0
    assert world.names("l/") == []
    assert "Traceback" not in caught.value.message and len(caught.value.message) < 1200
    return caught.value.message


# -- pickles -----------------------------------------------------------------------


class Evil:
    """Runs a shell command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


def hostile_pickle(folder: Path, name: str, canary: Path) -> Path:
    """A bare pickle, an old torch file or a new one, by name; it makes the canary file when it is unpickled."""
    evil = {"weight": torch.ones(2), "evil": Evil(f"touch {canary}")}
    path = folder / name
    if name == "bare.pkl":
        path.write_bytes(pickle.dumps(evil))
    else:
        torch.save(evil, path, _use_new_zipfile_serialization=name == "new.pt")
    return path


@pytest.mark.parametrize(
    "name", ["new.pt", *(pytest.param(n, marks=pytest.mark.slow) for n in ("bare.pkl", "old.bin"))]
)
def test_a_malicious_pickle_does_not_run(world: World, place: Path, name: str) -> None:
    canary = place / "canary"
    path = hostile_pickle(place, name, canary)
    assert "--convert-pickle" in refused(world, path)
    assert "was not converted" in refused(world, path, convert_pickle=True)
    assert not canary.exists()
    torch.load(path, weights_only=False) if name != "bare.pkl" else pickle.loads(path.read_bytes())
    assert canary.exists(), "the control: without our fences the pickle does run"


PROBE = """
import json, os, socket, sys
sys.argv = ["sandbox", "{}"]
from pathlib import Path
from lightmill.models.exchange import sandbox
network = sandbox.cut_network()
memory = sandbox.address_space() + (256 << 20)
files = sandbox.cut_files()
sandbox.limit(memory, 20)
def tried(work):
    try:
        work()
    except BaseException as exc:
        return type(exc).__name__
    return "done"
folder = os.environ["PROBE"]
found = {
    "read": tried(lambda: open("/etc/passwd").read()),
    "write": tried(lambda: open(folder + "/canary", "w")),
    "mkdir": tried(lambda: os.mkdir(folder + "/canary")),
    "unlink": tried(lambda: os.unlink(folder + "/precious")),
    "rename": tried(lambda: os.rename(folder + "/precious", folder + "/stolen")),
    "socket": tried(lambda: socket.create_connection(("127.0.0.1", int(os.environ["PORT"])), 2)),
    "memory": tried(lambda: bytearray(1 << 30)),
    "process": tried(lambda: os.posix_spawn("/bin/true", ["true"], {})),
}
print(json.dumps({"fences": [network, files], "found": found}))
"""


def test_the_fences_hold_against_code_that_does_run(place: Path) -> None:
    """As if torch had let a pickle through: code in the sandbox can reach neither files nor network nor memory."""
    (place / "precious").write_text("1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = subprocess.run(
            [sys.executable, "-c", PROBE],
            env={"PYTHONPATH": os.pathsep.join(sys.path), "PROBE": str(place), "PORT": str(server.getsockname()[1])},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    print(f"network namespace and Landlock here: {said['fences']}")
    always = {"read", "write", "socket", "memory"}  # by limits alone, on any system
    fenced = always | ({"mkdir", "unlink", "rename", "process"} if said["fences"][1] else set())
    assert {name for name, outcome in said["found"].items() if outcome == "done"} <= set(said["found"]) - fenced
    assert (place / "precious").exists() or not said["fences"][1]
    assert not (place / "canary").is_file()


def test_the_sandbox_gets_no_secret(world: World, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightmill.models.exchange.pickles import _environment

    monkeypatch.setenv("LIGHTMILL_API_KEY", "lm_canary")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    assert "canary" not in json.dumps(_environment())
    assert _environment().keys() == {"PYTHONPATH", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "PATH"}


def test_a_pickle_that_unfolds_to_more_than_it_holds_is_refused(world: World, place: Path) -> None:
    """A tensor of one number, seen 2^28 times."""
    torch.save({"weight": torch.ones(1).expand(1 << 28)}, place / "views.pt")
    assert "was not converted" in refused(world, place / "views.pt", convert_pickle=True)


@pytest.mark.slow
def test_a_zip_bomb_of_weights_is_refused(world: World, place: Path) -> None:
    """16 MiB of zeros, deflated to nothing."""
    plain = io.BytesIO()
    torch.save({"weight": torch.zeros(1 << 22)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(place / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb:
        for info in source.infolist():
            bomb.writestr(info.filename, source.read(info.filename))
    assert (place / "bomb.pt").stat().st_size < 1 << 18
    assert "was not converted" in refused(world, place / "bomb.pt", convert_pickle=True)


def test_a_pickle_that_takes_for_ever_is_ended(place: Path) -> None:
    torch.save(state(), place / "m.pt")
    with pytest.raises(RequestError, match="was not converted"), convert(place / "m.pt", "m", timeout_s=0.01) as file:
        list(file.tensors)


# -- headers -----------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 1 << 20, (16 << 20) + 1, 1 << 40, (1 << 64) - 1])
def test_an_absurd_header_costs_nothing(world: World, place: Path, length: int) -> None:
    (place / "m.safetensors").write_bytes(struct.pack("<Q", length) + b"{}")
    assert "header" in refused(world, place / "m.safetensors")


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1 << 45], "data_offsets": [0, 1 << 47]},
        {"dtype": "U8", "shape": [4], "data_offsets": [-4, 0]},
        {"dtype": "U8", "shape": [4], "data_offsets": [4, 0]},
        {"dtype": "U8", "shape": [[4]], "data_offsets": [0, 4]},
        {"dtype": "U8", "shape": "4", "data_offsets": [0, 4]},
        {"dtype": {"U8": 1}, "shape": [4], "data_offsets": [0, 4]},
    ],
)
def test_a_lying_header_is_refused_before_memory_is_taken(world: World, place: Path, entry: object) -> None:
    raw = json.dumps({"a": entry}).encode()
    (place / "m.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + b"1234")
    refused(world, place / "m.safetensors")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GGUF",
        b"GGML" + bytes(100),
        struct.pack("<4sIQQ", b"GGUF", 1, 1, 1),
        struct.pack("<4sIQQ", b"GGUF", 3, 1 << 60, 1),
        struct.pack("<4sIQQ", b"GGUF", 3, 1, 1 << 60),
        struct.pack("<4sIQQ", b"GGUF", 3, 1, 1) + struct.pack("<Q", 1 << 62) + b"general.architecture",
    ],
)
def test_a_broken_gguf_is_refused(world: World, place: Path, data: bytes) -> None:
    (place / "m.gguf").write_bytes(data)
    refused(world, place / "m.gguf")


# -- folders -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "shard", ["../secret.safetensors", "/etc/passwd", "a/../../b.safetensors", ".hidden", "no.safetensors", ""]
)
def test_an_index_reaches_nothing_outside_the_folder(world: World, place: Path, shard: str) -> None:
    save(place / "secret.safetensors")
    folder = sharded_folder(place / "m")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["ids"] = shard
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(world, folder)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"ids": shard}}))
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    torch.save(state(), folder / "pytorch_model-1.bin")
    refused(world, folder, convert_pickle=True)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "notes.xyz", "1_Pooling/link"])
def test_links_are_not_followed(world: World, place: Path, name: str) -> None:
    secret = place / "secret.json"
    secret.write_text("{}")
    folder = folder_of(place / "m")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(secret)
    assert "is a link" in refused(world, folder)


def test_a_linked_folder_inside_and_a_linked_file_are_refused(world: World, place: Path) -> None:
    folder = folder_of(place / "m")
    (folder / "more").symlink_to(place)
    assert "is a link" in refused(world, folder)
    save(place / "w.safetensors")
    (place / "link.safetensors").symlink_to(place / "w.safetensors")
    assert "it is a link" in refused(world, place / "link.safetensors")


def test_devices_and_pipes_are_refused_without_waiting(world: World, place: Path) -> None:
    os.mkfifo(place / "pipe.safetensors")
    assert "no regular file" in refused(world, place / "pipe.safetensors")
    folder = folder_of(place / "m")
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")
    assert "no regular file" in refused(world, folder)


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("config.json", {**CONFIG, "auto_map": {"AutoModel": "modeling.Evil"}}, "auto_map"),
        ("config.json", {**CONFIG, "text_config": {"deep": [{"auto_map": {}}]}}, "auto_map"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["tokenization.Evil", None]}}, "auto_map"),
        ("config.json", {**CONFIG, "_attn_implementation": "evil/kernel"}, "code"),
        ("config.json", {**CONFIG, "attn_implementation": {"text": "evil/kernel"}}, "code"),
    ],
)
def test_a_model_that_brings_code_is_refused(world: World, place: Path, file: str, content: object, named: str) -> None:
    folder = folder_of(place / "m")
    (folder / file).write_text(json.dumps(content))
    assert named in refused(world, folder)


def test_a_publisher_s_config_with_code_is_refused_at_loading_too(world: World) -> None:
    """Somebody with a trusted key published it past the import."""
    pytest.importorskip("transformers", reason="needs transformers (extra hf)")
    draft = world.registry.begin(MODEL, "m")
    content = seal(draft, state())
    config = {**CONFIG, "auto_map": {"AutoModel": "modeling.Evil"}}
    files = draft.seal_files({"config.json": json.dumps(config).encode()})
    model = card()
    model = model.model_copy(update={"architecture": model.architecture.model_copy(update={"name": "transformers"})})
    full = Content(
        files=(*content.files, *files.files),
        tensors=content.tensors,
        safetensors_header=content.safetensors_header,
        blobs=(*content.blobs, *files.blobs),
        model=model,
    )
    summary = world.registry.commit(draft, full)
    with pytest.raises(RequestError, match="auto_map"):
        load_transformers(world.registry, summary.id)


@pytest.mark.parametrize(
    ("name", "size"),
    [("tokenizer.json", (64 << 20) + 1), ("config.json", (4 << 20) + 1), ("README.md", (4 << 20) + 1)],
)
def test_an_oversized_text_is_not_read(world: World, place: Path, name: str, size: int) -> None:
    folder = folder_of(place / "m")
    with (folder / name).open("wb") as file:
        file.truncate(size)
    assert "limit" in refused(world, folder)


def test_a_deeply_nested_configuration_is_refused(world: World, place: Path) -> None:
    folder = folder_of(place / "m")
    (folder / "config.json").write_text('{"a":' * 200_000 + "1" + "}" * 200_000)
    assert "not valid JSON" in refused(world, folder)


def test_too_many_files_and_odd_names_are_refused(world: World, place: Path) -> None:
    folder = folder_of(place / "m")
    (folder / "od\nd.json").write_text("{}")
    assert "is no path" in refused(world, folder)
    (folder / "od\nd.json").unlink()
    for number in range(1001):
        (folder / f"{number}.npz").touch()
    assert "more than 1000 files" in refused(world, folder)


@pytest.mark.parametrize("path", ["../escaped.json", "/tmp/escaped.json", "a/../../escaped.json", ".ssh/config.json"])
def test_an_export_never_leaves_its_folder(world: World, place: Path, path: str) -> None:
    """A publisher with a trusted key names a file of the version like this."""
    draft = world.registry.begin(MODEL, "m")
    content = seal(draft, state())
    sealed = draft.seal_files({path: b"{}"})
    assert isinstance(sealed.files[0], FileEntry)
    full = Content(
        files=(*content.files, *sealed.files),
        tensors=content.tensors,
        safetensors_header=content.safetensors_header,
        blobs=(*content.blobs, *sealed.blobs),
        model=card(),
    )
    summary = world.registry.commit(draft, full)
    with pytest.raises(LightmillError, match="no path"):
        export_version(world.registry, summary.id, place / "out", ExportFormat.HUGGINGFACE, signing_key=None)
    assert list(place.iterdir()) == []
