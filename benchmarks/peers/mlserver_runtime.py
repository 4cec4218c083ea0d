"""MLServer: its runtime of one model, named in each model's settings, which the benchmark writes."""

from __future__ import annotations

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.peers.networks import means, mlp, run_encoder, run_mlp, text_encoder


class Network(MLModel):
    """One of the networks, by the model's name."""

    async def load(self) -> bool:
        """Load the network."""
        self.run = {
            "mlp": lambda: run_mlp(mlp()),
            "mlp_batch": lambda: run_mlp(mlp()),
            "encoder": lambda: run_encoder(text_encoder()),
            "means": lambda: means,
            "echo": lambda: lambda rows: rows,
        }[self.name]()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Compute one request, or some together."""
        rows = NumpyCodec.decode_input(payload.inputs[0])
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", self.run(rows))])
