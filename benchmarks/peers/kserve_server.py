"""KServe's Python server. Run: kserve_server.py PORT."""

from __future__ import annotations

import logging
import sys
from typing import Any

PORT = sys.argv.pop(1)
sys.argv += ["--http_port", PORT, "--enable_grpc", "False", "--workers", "1", "--enable_latency_logging", "False"]
sys.argv += ["--enable_docs_url", "False"]

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer  # noqa: E402 - it reads the arguments

from benchmarks.peers.networks import means, mlp, run_encoder, run_mlp, text_encoder  # noqa: E402

DATATYPES = {"f": "FP32", "i": "INT64"}


class Network(Model):
    """One of the networks."""

    def __init__(self, name: str, run: Any) -> None:
        super().__init__(name)
        self.run = run
        self.ready = True

    async def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        """Compute one request."""
        found = self.run(payload.inputs[0].as_numpy())
        output = InferOutput("y", list(found.shape), DATATYPES[found.dtype.kind])
        output.set_data_from_numpy(found, binary_data=False)
        return InferResponse(response_id="1", model_name=self.name, infer_outputs=[output])


if __name__ == "__main__":
    logging.disable(logging.INFO)
    networks = {
        "mlp": run_mlp(mlp()),
        "encoder": run_encoder(text_encoder()),
        "means": means,
        "echo": lambda rows: rows,
    }
    ModelServer().start([Network(name, run) for name, run in networks.items()])
