"""A platform asked by others' clients, unchanged, and by clients that do everything wrong, through HAProxy.

Others' clients live in an environment of their own (`make clients`), since they pin what the platform pins otherwise.
Whoever does wrong is told so with a 4xx that names the field; a witness asks rightly all the while, and is answered.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import socket
import subprocess
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import psutil
import pytest

from lightmill.serving.protocols.generated import open_inference_pb2 as pb
from lightmill.serving.protocols.generated import open_inference_pb2_grpc as stubs
from tests.conftest import Tally
from tests.platforms import ROOT, TestPlatform, temporary_platform

pytestmark = [pytest.mark.integration, pytest.mark.slow]
CLIENTS = Path(os.environ.get("LIGHTMILL_CLIENTS", ROOT / ".venv-clients")) / "bin"
INFER = "/v2/models/digits/infer"
PREDICT = "/v1/models/digits:predict"
PAGE = (ROOT / "docs" / "protocols.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
GROWTH_BYTES = 400 << 20
"""How much HAProxy, replica or gateway may grow under wrong input; a replica may hold bodies of 512 MiB."""


@pytest.fixture(scope="module")
def platform() -> Iterator[TestPlatform]:
    with temporary_platform() as found:
        found.lightmill("demo", "examples/digits")
        yield found


@pytest.fixture(scope="module")
def clients() -> Path:
    if not (CLIENTS / "python").exists():
        print(f"skipping: no {CLIENTS}; make clients")
        pytest.skip("no clients of others")
    return CLIENTS


@pytest.fixture
def http(platform: TestPlatform) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {platform.key}"}
    with httpx.Client(base_url=platform.url, headers=headers, timeout=90) as client:
        yield client


def serving(platform: TestPlatform) -> list[psutil.Process]:
    """HAProxy, the replica and the gateway."""
    return [
        process
        for process in platform.processes()
        if process.name() == "haproxy" or "ServeReplica:" in " ".join(process.cmdline())
    ]


def resident(platform: TestPlatform) -> dict[str, int]:
    """Return the resident bytes of HAProxy, replica and gateway, each of which may be several processes for a while."""
    found: dict[str, int] = {}
    for process in serving(platform):
        with suppress(psutil.Error):
            name = process.name() if process.name() == "haproxy" else process.cmdline()[0]
            found[name] = max(found.get(name, 0), process.memory_info().rss)
    return found


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": [0] * 64} | changes


GOOD = json.dumps({"inputs": [tensor()]}).encode()


@contextmanager
def witness(platform: TestPlatform) -> Iterator[list[str]]:
    """Ask rightly, by the endpoint and by the gateway, all the while; what went wrong stands in the list."""
    stop, wrong, asked = threading.Event(), list[str](), [0]

    def ask() -> None:
        with httpx.Client(base_url=platform.url, headers={"X-API-Key": platform.key}, timeout=60) as client:
            while not stop.wait(0.02) or asked[0] == 0:
                for path, body in ((INFER, GOOD), (PREDICT, b'{"instances": [%s]}' % json.dumps([0] * 64).encode())):
                    try:
                        answer = client.post(path, content=body)
                    except httpx.HTTPError as exc:
                        wrong.append(repr(exc))
                        continue
                    asked[0] += 1
                    if answer.status_code != 200:
                        wrong.append(f"{answer.status_code} {answer.text}")

    before = resident(platform)
    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield wrong
    finally:
        stop.set()
        thread.join()
    grown = {name: size - before.get(name, 0) for name, size in resident(platform).items()}
    assert wrong == [] and asked[0] > 0
    assert all(size < GROWTH_BYTES for size in grown.values()), {name: size >> 20 for name, size in grown.items()}


def send(platform: TestPlatform, *pieces: bytes, path: str = INFER, close: bool = False, **headers: str) -> bytes:
    """Send bytes as they are behind a request's head, and return the answer; empty if there is none."""
    words = {"X-API-Key": platform.key, "Content-Type": "application/json"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in words.items())
    port = int(platform.environment["LIGHTMILL_HTTP_PORT"])
    with socket.create_connection(("127.0.0.1", port), timeout=90) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode())
        with suppress(OSError):  # who is refused early is not read to the end
            for piece in pieces:
                connection.sendall(piece)
        if close:
            connection.shutdown(socket.SHUT_WR)
        return answer_of(connection)


def answer_of(connection: socket.socket) -> bytes:
    """Return the next answer on a connection."""
    found = b""
    with suppress(OSError):
        while more := connection.recv(65536):
            found += more
            head, end, body = found.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            if end and length and len(body) >= int(length[1]):
                break
    return found


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


# -- others' clients ---------------------------------------------------------------------------------


@pytest.mark.parametrize("place", range(len(EXAMPLES)))
def test_clients_of_others_work_as_the_documentation_has_it(platform: TestPlatform, clients: Path, place: int) -> None:
    """Each block of Python in docs/protocols.md, with this platform's ports in place of the default ones."""
    code = EXAMPLES[place].replace("localhost:8000", platform.url.removeprefix("http://"))
    code = code.replace("localhost:8001", platform.grpc)
    given = f"import numpy\npixels, key = numpy.zeros((3, 64), numpy.float32), {platform.key!r}\n"
    shown = "\nimport json\nprint(json.dumps(numpy.asarray(answer).reshape(3, 10).tolist()))"
    found = platform.run(clients / "python", "-c", given + code + shown).json()
    np.testing.assert_allclose(np.array(found).sum(axis=1), 1.0, atol=1e-5)


def test_the_documentation_shows_four_clients() -> None:
    shown = re.findall(r"(tritonclient\.http|tritonclient\.grpc|InferenceRESTClient|InferenceGRPCClient)\(?", PAGE)
    assert len(EXAMPLES) == 4 and len(set(shown)) == 4


def test_curl_works_as_the_documentation_has_it(platform: TestPlatform, tmp_path: Path) -> None:
    (script,) = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.S)
    script = script.replace("http://127.0.0.1:8000", platform.url).replace("~/.lightmill", str(platform.home))
    done = platform.run("bash", "-euc", f"cd {tmp_path}\n{script}")
    assert '"outputs"' in done.out and '"predictions"' in done.out
    with np.load(tmp_path / "answer.npz") as answer:
        assert answer["probabilities"].shape == (1, 10)


TRITON = """
import sys, json, numpy, tritonclient.{kind} as triton
address, key, name = sys.argv[1:]
def headers(): return {{name: f"Bearer {{key}}"}}
client = triton.InferenceServerClient(address)
assert client.is_server_live(headers=headers()) and client.is_server_ready(headers=headers())
assert client.is_model_ready("digits", headers=headers())
client.get_server_metadata(headers=headers()), client.get_model_metadata("digits", headers=headers())
client.get_model_repository_index(headers=headers())
rows = numpy.random.default_rng(0).random((5, 64), dtype=numpy.float32)
def ask(**more):
    given = triton.InferInput("pixels", [5, 64], "FP32")
    given.set_data_from_numpy(rows, **more)
    wanted = [triton.InferRequestedOutput(each) for each in ("probabilities", "label")]
    return client.infer("digits", [given], outputs=wanted, request_id="r7", headers=headers())
found = ask()
print(json.dumps([found.as_numpy("probabilities").tolist(), found.as_numpy("label").tolist()]))
try:
    given = triton.InferInput("pixels", [1, 63], "FP32")
    given.set_data_from_numpy(rows[:1, :63])
    client.infer("digits", [given], headers=headers())
    raise SystemExit("63 pixels were taken")
except triton.InferenceServerException as exc:
    assert "pixels" in str(exc), exc
"""


def test_triton_s_clients_have_what_they_ask_for_and_the_same_by_http_and_grpc(
    platform: TestPlatform, clients: Path
) -> None:
    by_http = platform.run(
        clients / "python", "-c", TRITON.format(kind="http"), platform.url.removeprefix("http://"), platform.key,
        "Authorization",
    )  # fmt: skip
    by_grpc = platform.run(
        clients / "python", "-c", TRITON.format(kind="grpc"), platform.grpc, platform.key, "authorization"
    )
    np.testing.assert_allclose(by_http.json()[0], by_grpc.json()[0], atol=1e-6)
    assert by_http.json()[1] == by_grpc.json()[1]


def test_status_shows_the_grpc_port(platform: TestPlatform) -> None:
    assert platform.lightmill("status", "--json").json()["grpc"] == platform.grpc
    assert platform.grpc in platform.lightmill("status").out


def test_schemathesis_finds_no_5xx(platform: TestPlatform, clients: Path, tmp_path: Path) -> None:
    with witness(platform):
        done = subprocess.run(
            [
                clients / "st", "run", f"{platform.url}/v2/models/digits/openapi.json", "--url", platform.url,
                "--header", f"X-API-Key:{platform.key}", "--checks", "not_a_server_error", "--max-examples", "150",
                "--seed", "7", "--workers", "2", "--max-time", "150", "--warnings", "off",
            ],
            cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "generated" in done.stdout
    print(next(line.strip() for line in done.stdout.splitlines() if "generated" in line))


# -- wrong input on purpose --------------------------------------------------------------------------


WRONG: dict[str, tuple[bytes, list[str]]] = {
    "no JSON": (b'{"inputs": [', ["JSON"]),
    "nothing": (b"", ["JSON"]),
    "a list in a list, 5000 deep": (b"[" * 5000, ["JSON"]),
    "bytes that are no text": (b'{"inputs": "\xff\xfe"}', ["JSON"]),
    "NaN": (GOOD.replace(b"[0,", b"[NaN,"), ["JSON"]),
    "a number that is none": (json.dumps({"inputs": [tensor(data=[1e39] + [0] * 63)]}).encode(), ["inputs['pixels']"]),
    "1e400": (GOOD.replace(b"[0,", b"[1e400,"), ["JSON"]),
    "ragged": (json.dumps({"inputs": [tensor(data=[[0] * 32, [0] * 31])]}).encode(), ["data", "ragged"]),
    "too few": (json.dumps({"inputs": [tensor(data=[0] * 63)]}).encode(), ["data", "63"]),
    "a text": (json.dumps({"inputs": [tensor(data=["a"] * 64)]}).encode(), ["data", "FP32"]),
    "a shape of terabytes": (json.dumps({"inputs": [tensor(shape=[1 << 40, 64])]}).encode(), ["shape"]),
    "a negative shape": (json.dumps({"inputs": [tensor(shape=[-1, 64])]}).encode(), ["shape"]),
    "a shape beyond 64 bits": (json.dumps({"inputs": [tensor(shape=[1 << 70, 64])]}).encode(), ["shape"]),
    "another name": (json.dumps({"inputs": [tensor(name="pixel")]}).encode(), ["pixels"]),
    "another type": (json.dumps({"inputs": [tensor(datatype="FP64")]}).encode(), ["datatype"]),
    "an output that is none": (json.dumps({"inputs": [tensor()], "outputs": [{"name": "x"}]}).encode(), ["outputs"]),
    "twice the same": (json.dumps({"inputs": [tensor(), tensor()]}).encode(), ["inputs"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_bodies_are_a_400_that_names_the_field(http: httpx.Client, case: str, tally: Tally) -> None:
    body, words = WRONG[case]
    answer = http.post(INFER, content=body)
    assert answer.status_code == 400, (answer.status_code, answer.text[:500])
    assert [word for word in words if word not in answer.json()["error"]] == [], answer.text
    through = http.post(PREDICT, content=body)
    assert through.status_code == 400, (through.status_code, through.text[:500])
    tally("wrong bodies refused", 2)


def binary(size: int, rows: np.ndarray[Any, Any]) -> tuple[bytes, dict[str, str]]:
    entry = {"name": "pixels", "datatype": "FP32", "shape": [1, 64], "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [entry]}).encode()
    return head + rows.astype("<f4").tobytes(), {"Inference-Header-Content-Length": str(len(head))}


@pytest.mark.parametrize(
    ("size", "rows", "words"),
    [
        (256, np.zeros(63), "binary_data_size"),
        (256, np.zeros(65), "4 bytes more"),
        (1 << 60, np.zeros(64), "binary_data_size"),
        (-1, np.zeros(64), "binary_data_size"),
        (256, np.full(64, np.nan), "NaN"),
        (256, np.full(64, np.inf), "inf"),
    ],
)
def test_wrong_bytes_are_a_400_that_names_the_field(
    http: httpx.Client, size: int, rows: np.ndarray[Any, Any], words: str
) -> None:
    body, headers = binary(size, rows)
    answer = http.post(INFER, content=body, headers=headers)
    assert answer.status_code == 400 and words in answer.json()["error"], answer.text


@pytest.mark.parametrize("length", ["-1", "9" * 30, "1e9", "99999999999"])
def test_wrong_lengths_of_the_head_are_a_400(http: httpx.Client, length: str) -> None:
    body, _ = binary(256, np.zeros(64))
    answer = http.post(INFER, content=body, headers={"Inference-Header-Content-Length": length})
    assert answer.status_code == 400 and "Inference-Header-Content-Length" in answer.json()["error"]


def test_sizes_that_are_declared_wrongly_are_4xx(platform: TestPlatform) -> None:
    with witness(platform):
        for length in ("abc", "-5", "1, 2", "9" * 40):
            assert 400 <= status(send(platform, GOOD, Content_Length=length)) < 500, length
        both = send(platform, GOOD, Content_Length=str(len(GOOD)), Transfer_Encoding="chunked", close=True)
        assert not both or 400 <= status(both) < 500
        chunk = b"zz\r\n" + GOOD + b"\r\n0\r\n\r\n"
        broken = send(platform, chunk, Transfer_Encoding="chunked", close=True)
        assert not broken or 400 <= status(broken) < 500
        for _ in range(20):
            short = send(platform, GOOD[:50], Content_Length=str(len(GOOD)), close=True)
            assert not short or 400 <= status(short) < 500, short


def test_bodies_of_100_mb_are_413_and_take_no_memory(platform: TestPlatform, tally: Tally) -> None:
    piece = bytes(1 << 20)

    def declared(_: int) -> int:
        return status(send(platform, *[piece] * 100, Content_Length=str(100 << 20)))

    def chunked(path: str) -> int:
        chunks = (b"%x\r\n%s\r\n" % (len(piece), piece) for _ in range(100))
        return status(send(platform, *chunks, b"0\r\n\r\n", path=path, Transfer_Encoding="chunked"))

    with witness(platform), ThreadPoolExecutor(8) as pool:
        found = [*pool.map(declared, range(24)), *pool.map(chunked, [INFER] * 8), *pool.map(chunked, [PREDICT] * 4)]
    assert found == [413] * 36
    tally("bodies of 100 MB refused", len(found))


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_bombs_are_413(platform: TestPlatform, encoding: str) -> None:
    """A megabyte that expands to a gigabyte, and a bomb in a bomb."""
    pack = gzip.compress if encoding == "gzip" else zlib.compress
    bomb = pack(bytes(1 << 30))
    with witness(platform), ThreadPoolExecutor(4) as pool:
        for path in (INFER, PREDICT):
            found = pool.map(
                lambda _, path=path: send(
                    platform, bomb, path=path, Content_Length=str(len(bomb)), Content_Encoding=encoding
                ),
                range(4),
            )
            assert [status(each) for each in found] == [413] * 4
        twice = pack(bomb)
        nested = send(platform, twice, Content_Length=str(len(twice)), Content_Encoding=f"{encoding}, {encoding}")
        assert status(nested) in (400, 413, 415)
        damaged = bomb[: len(bomb) // 2]
        broken = send(platform, damaged, Content_Length=str(len(damaged)), Content_Encoding=encoding)
        assert status(broken) in (400, 413)


def test_ten_thousand_bad_keys_are_401_and_take_no_memory(platform: TestPlatform, tally: Tally) -> None:
    def strange(start: int) -> list[int]:
        with httpx.Client(base_url=platform.url, timeout=60) as client:
            return [
                client.post(
                    INFER, content=GOOD, headers={"Authorization": f"Bearer lm_{n:08x}_{'x' * (n % 200)}"}
                ).status_code
                for n in range(start, 10_000, 8)
            ]

    with witness(platform), ThreadPoolExecutor(8) as pool:
        found = [code for codes in pool.map(strange, range(8)) for code in codes]
    assert found == [401] * 10_000
    tally("bad keys refused", len(found))


def test_clients_that_are_endlessly_slow_are_given_up_and_nobody_waits_for_them(platform: TestPlatform) -> None:
    """300 connections whose head never ends, and 50 whose body never does: each is told 408 after half a minute."""
    port = int(platform.environment["LIGHTMILL_HTTP_PORT"])
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nX-API-Key: {platform.key}\r\n"
    body = head + f"Content-Length: {len(GOOD)}\r\n\r\n" + "{"
    with witness(platform):
        slow = [socket.create_connection(("127.0.0.1", port), timeout=90) for _ in range(350)]
        try:
            for place, connection in enumerate(slow):
                connection.sendall((head if place < 300 else body).encode())
            codes = {status(answer_of(connection)) for connection in slow}
        finally:
            for connection in slow:
                connection.close()
    assert codes == {408}


def test_connections_that_are_half_closed_harm_nobody(platform: TestPlatform) -> None:
    """Whoever ends its side after the whole request is still owed an answer, or told nothing; never a 5xx."""
    with witness(platform):
        for _ in range(50):
            whole = send(platform, GOOD, Content_Length=str(len(GOOD)), close=True)
            assert not whole or status(whole) < 500
            head = send(platform, Content_Length=str(len(GOOD)), close=True)
            assert not head or 400 <= status(head) < 500


def test_wrong_messages_by_grpc_are_refused_and_others_are_answered(platform: TestPlatform) -> None:
    good = pb.ModelInferRequest(model_name="digits", raw_input_contents=[bytes(256)])
    good.inputs.add(name="pixels", datatype="FP32", shape=[1, 64])
    huge = pb.ModelInferRequest(model_name="digits", raw_input_contents=[bytes(100 << 20)])
    key = (("x-api-key", platform.key),)
    with witness(platform), grpc.insecure_channel(platform.grpc) as channel:
        stub: Any = stubs.GRPCInferenceServiceStub(channel)
        strangers = [(good, (("x-api-key", f"lm_{n:08x}_wrong"),), "UNAUTHENTICATED") for n in range(1000)]
        for message, metadata, code in [*strangers, (huge, key, "RESOURCE_EXHAUSTED"), (huge, (), "UNAUTHENTICATED")]:
            with pytest.raises(grpc.RpcError) as caught:
                stub.ModelInfer(message, metadata=metadata)
            error: Any = caught.value
            assert error.code().name in (code, "UNAVAILABLE" if message is huge else code), error.details()
        assert len(stub.ModelInfer(good, metadata=key).raw_output_contents) == 2
