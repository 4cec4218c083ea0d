"""mosec, whose front end is written in Rust. Run: mosec_server.py --port PORT --address 127.0.0.1."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
from mosec import Runtime, Server, Worker

from benchmarks.peers.networks import BATCH_ROWS, BATCH_WAIT_S, means, mlp, run_encoder, run_mlp, text_encoder


class Echo(Worker):
    """Returns what came."""

    def deserialize(self, data: bytes) -> Any:
        """Read JSON."""
        return orjson.loads(data)

    def serialize(self, data: Any) -> bytes:
        """Write JSON."""
        return orjson.dumps(data)

    def forward(self, data: Any) -> Any:
        """Compute nothing."""
        return data


class Mlp(Echo):
    """64 -> 256 -> 10."""

    def __init__(self) -> None:
        self.run = run_mlp(mlp())

    def forward(self, data: Any) -> Any:
        """Compute one request."""
        return {"y": self.run(data["x"]).tolist()}


class Batched(Mlp):
    """The same, some requests together."""

    def forward(self, data: Any) -> Any:
        """Compute requests of one row each."""
        found = self.run(np.concatenate([np.asarray(one["x"], dtype=np.float32) for one in data])).tolist()
        return [{"y": [row]} for row in found]


class Encoder(Mlp):
    """The encoder."""

    def __init__(self) -> None:
        self.run = run_encoder(text_encoder())


class Means(Mlp):
    """A megabyte as JSON."""

    def __init__(self) -> None:
        self.run = means


class Raw(Means):
    """A megabyte as it is."""

    def deserialize(self, data: bytes) -> Any:
        """Return the tensor that the bytes are."""
        return {"x": np.frombuffer(data, dtype=np.float32)}


if __name__ == "__main__":
    server = Server()
    routes = {"/echo": Echo, "/mlp": Mlp, "/encoder": Encoder, "/means": Means, "/means_raw": Raw}
    runtimes: dict[str, list[Runtime]] = {
        route: [Runtime(worker, num=1, timeout=60)] for route, worker in routes.items()
    }
    wait_ms = int(BATCH_WAIT_S * 1000)
    runtimes["/mlp_batch"] = [Runtime(Batched, num=1, max_batch_size=BATCH_ROWS, max_wait_time=wait_ms, timeout=60)]
    server.register_runtime(runtimes)
    server.run()
