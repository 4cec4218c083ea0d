"""LitServe. Run: litserve_server.py PORT."""

from __future__ import annotations

import sys
from typing import Any

import litserve
import numpy as np

from benchmarks.peers.networks import BATCH_ROWS, BATCH_WAIT_S, means, mlp, run_encoder, run_mlp, text_encoder


class Echo(litserve.LitAPI):
    """Returns what came."""

    def setup(self, device: str) -> None:
        """Load nothing."""

    def decode_request(self, request):
        """Return a request."""
        return request

    def predict(self, x: Any) -> Any:
        """Compute nothing."""
        return x

    def encode_response(self, output: Any) -> Any:
        """Return an answer."""
        return output


class Numbers(Echo):
    """Takes rows, and answers rows."""

    dtype: Any = np.float32

    def decode_request(self, request):
        """Return the rows of a request."""
        return np.asarray(request["x"], dtype=self.dtype)

    def predict(self, x: Any) -> Any:
        """Compute."""
        return self.run(x)

    def encode_response(self, output: Any) -> Any:
        """Return an answer."""
        return {"y": output.tolist()}


class Mlp(Numbers):
    """64 -> 256 -> 10."""

    def setup(self, device: str) -> None:
        """Load the network."""
        self.run = run_mlp(mlp())


class Batched(Mlp):
    """The same, some requests together."""

    def batch(self, inputs: Any) -> Any:
        """Join requests."""
        return np.concatenate(inputs)

    def unbatch(self, output: Any) -> Any:
        """Part answers."""
        return [output[row : row + 1] for row in range(len(output))]


class Encoder(Numbers):
    """The encoder."""

    dtype = np.int64

    def setup(self, device: str) -> None:
        """Load the network."""
        self.run = run_encoder(text_encoder())


class Means(Numbers):
    """A megabyte as JSON."""

    def setup(self, device: str) -> None:
        """Load nothing."""
        self.run = means


if __name__ == "__main__":
    apis = [
        Echo(api_path="/echo"),
        Mlp(api_path="/mlp"),
        Batched(api_path="/mlp_batch", max_batch_size=BATCH_ROWS, batch_timeout=BATCH_WAIT_S),
        Encoder(api_path="/encoder"),
        Means(api_path="/means"),
    ]
    server = litserve.LitServer(apis, accelerator="cpu", workers_per_device=1, timeout=60)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=1,
        log_level="warning",
        access_log=False,
        generate_client_file=False,
    )
