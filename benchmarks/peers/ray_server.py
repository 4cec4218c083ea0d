"""Plain Ray Serve, written by hand on the platform's own Ray, as it is set: HAProxy, throughput-optimized, raw.

Run: ray_server.py, with the environment of a node; it deploys, and deletes what it deployed when its input ends.
"""

from __future__ import annotations

import sys
from typing import Any

import ray
from ray import serve

NAME = "by-hand"


class Networks:
    """All networks behind one path each."""

    def __init__(self) -> None:
        import numpy as np
        import orjson

        from benchmarks.peers import networks

        self._np, self._orjson = np, orjson
        predict, encode = networks.run_mlp(networks.mlp()), networks.run_encoder(networks.text_encoder())
        self._predict = predict
        self._run = {
            "/mlp": lambda body: predict(orjson.loads(body)["x"]),
            "/encoder": lambda body: encode(orjson.loads(body)["x"]),
            "/means": lambda body: networks.means(orjson.loads(body)["x"]),
            "/means_raw": lambda body: networks.means(np.frombuffer(body, dtype=np.float32)),
        }

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.003)
    async def batched(self, rows: list[Any]) -> list[Any]:
        """Compute some requests of one row together."""
        found = self._predict(self._np.concatenate(rows))
        return [found[row : row + 1] for row in range(len(rows))]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path == "/echo":
            found = self._orjson.loads(body)
        elif path == "/mlp_batch":
            rows = self._np.asarray(self._orjson.loads(body)["x"], dtype=self._np.float32)
            found = {"y": (await self.batched(rows)).tolist()}
        else:
            found = {"y": self._run[path](body).tolist()}
        data = self._orjson.dumps(found)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data})


class Deployed:
    """The deployment class."""

    def __init__(self) -> None:
        self._app = Networks()

    def __serve_build_asgi_app__(self) -> Networks:
        """Return the application."""
        return self._app


def main() -> None:
    """Deploy until standard input ends."""
    ray.init(address="auto", log_to_driver=False)
    deployment: Any = serve.deployment(serve.ingress()(Deployed))
    options = deployment.options(
        name="networks", num_replicas=1, max_ongoing_requests=1024, ray_actor_options={"num_cpus": 0.25}
    )
    serve.run(options.bind(), name=NAME, route_prefix=f"/{NAME}", logging_config={"enable_access_log": False})
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    serve.delete(NAME, _blocking=False)


if __name__ == "__main__":
    main()
