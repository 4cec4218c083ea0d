"""BentoML. Run: bentoml serve benchmarks.peers.bentoml_server:Networks -p PORT."""

import typing

import bentoml
import numpy as np

from benchmarks.peers.networks import BATCH_ROWS, means, mlp, run_encoder, run_mlp, text_encoder


@bentoml.service(workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Networks:
    """All networks."""

    def __init__(self) -> None:
        self.predict = run_mlp(mlp())
        self.encode = run_encoder(text_encoder())

    @bentoml.api(route="/echo")
    async def of_echo(self, x: int) -> dict:
        """Return what came."""
        return {"x": x}

    @bentoml.api(route="/mlp")
    async def of_mlp(self, x: typing.List[typing.List[float]]) -> dict:  # noqa: UP006 - as its documentation has it
        """Compute one request."""
        return {"y": self.predict(x).tolist()}

    @bentoml.api(route="/mlp_batch", batchable=True, max_batch_size=BATCH_ROWS, max_latency_ms=1000)
    def of_mlp_batch(self, x: np.ndarray) -> np.ndarray:
        """Compute some requests together."""
        return self.predict(x)

    @bentoml.api(route="/encoder")
    async def of_encoder(self, x: typing.List[typing.List[int]]) -> dict:  # noqa: UP006
        """Compute one text."""
        return {"y": self.encode(x).tolist()}

    @bentoml.api(route="/means")
    async def of_json(self, x: np.ndarray) -> np.ndarray:
        """Take a megabyte as JSON."""
        return means(x)
