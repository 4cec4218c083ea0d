"""Loading from a real S3 server (SeaweedFS on loopback) against obstore that gets the same objects plain.

CPU is that of this process alone, the client's. The peer keeps nothing: it gets each object in the same parts, on as
many threads, into buffers that are used again.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import torch

from benchmarks.figures import figure, note
from benchmarks.sealed_models import MIB, QUICK, RUNS, Arena, machine, make_state, new_registry, publish, scratch
from lightmill.registry.content import load_threads
from lightmill.registry.planning import PART_BYTES
from lightmill.storage import open_store


def main() -> None:
    """Publish to the server once, then load and get in turn."""
    try:
        import obstore  # noqa: F401 - only to say early that it is absent

        from tests.seaweed import REGION, seaweed_server, why_no_seaweed
    except ImportError as exc:
        note(f"  load_s3_vs_obstore is left out: {exc}")
        return
    reason = why_no_seaweed()
    if reason:
        note(f"  load_s3_vs_obstore is left out: {reason}")
        return
    state = make_state((128 if QUICK else 512) * MIB)
    with seaweed_server() as server, scratch() as folder:
        os.environ.update(server.environment())
        prefix = "bench"
        store = open_store(server.url(prefix))
        registry = new_registry(store, folder)
        version = registry.open(publish(registry, state))
        arena = Arena(state)
        threads = load_threads(store)
        version.load_into(arena.outs)
        arena.check(state)
        blobs = [(f"{prefix}/b/{blob.id[:2]}/{blob.id}", blob.size) for blob in version.manifest.blobs]
        get = _peer(server.endpoint, server.bucket, REGION, blobs, threads)
        _measure(lambda: version.load_into(arena.outs), get, sum(size for _, size in blobs), threads)


def _peer(endpoint: str, bucket: str, region: str, blobs: list[tuple[str, int]], threads: int) -> Callable[[], None]:
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        bucket,
        endpoint=endpoint,
        region=region,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
        access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
        secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
    )
    parts = [
        (name, start, min(start + PART_BYTES, size)) for name, size in blobs for start in range(0, size, PART_BYTES)
    ]

    def get() -> None:
        numbers, lock = iter(parts), threading.Lock()

        def drain() -> None:
            while True:
                with lock:
                    part = next(numbers, None)
                if part is None:
                    return
                name, start, end = part
                if len(obstore.get_range(store, name, start=start, end=end)) != end - start:
                    raise SystemExit("the peer's answer was cut")

        workers = [threading.Thread(target=drain) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return get


def _measure(ours: Callable[[], None], peer: Callable[[], None], size: int, threads: int) -> None:
    torch.set_num_threads(1)
    speeds: dict[str, list[float]] = {"ours": [], "peer": []}
    cpu: dict[str, list[float]] = {"ours": [], "peer": []}
    for run in range(RUNS + 1):
        for name, work in (("ours", ours), ("peer", peer)):
            began, before = time.perf_counter(), _cpu()
            work()
            if run:
                speeds[name].append(size / 1e9 / (time.perf_counter() - began))
                cpu[name].append((_cpu() - before) / (size / 1e9))
        if run:
            note(f"  run {run}: ours {speeds['ours'][-1]:.2f}, obstore {speeds['peer'][-1]:.2f} GB/s")
    more: dict[str, object] = {"threads": threads, "server": "SeaweedFS on loopback, same machine", **machine()}
    figure(
        "load_s3_vs_obstore",
        "GB/s",
        speeds["ours"],
        speeds["peer"],
        goal=">= 0.85",
        holds=lambda value: value >= 0.85,
        **more,
    )
    figure(
        "load_s3_cpu",
        "CPU s/GB",
        cpu["ours"],
        cpu["peer"],
        goal="<= 1.25",
        holds=lambda value: value <= 1.25,
        **more,
    )


def _cpu() -> float:
    times = os.times()
    return times.user + times.system
