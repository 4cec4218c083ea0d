"""The control: FastAPI, uvicorn and torch, put together by a careful engineer. Run: by_hand_server.py PORT."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import numpy as np
import orjson
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response

from benchmarks.peers.networks import BATCH_ROWS, BATCH_WAIT_S, Run, means, mlp, run_encoder, run_mlp, text_encoder

app = FastAPI()
predict, encode = run_mlp(mlp()), run_encoder(text_encoder())


class Batcher:
    """Computes together what came within the wait, or as soon as a batch is full."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._waiting: list[tuple[Any, asyncio.Future[Any]]] = []
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self, rows: Any) -> asyncio.Future[Any]:
        """Return the answer to some rows, when it is there."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting.append((rows, future))
        if len(self._waiting) >= BATCH_ROWS:
            self._compute()
        elif self._timer is None:
            self._timer = loop.call_later(BATCH_WAIT_S, self._compute)
        return future

    def _compute(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = None
        batch, self._waiting = self._waiting, []
        if not batch:
            return
        answers, at = self._run(np.concatenate([rows for rows, _ in batch])), 0
        for rows, future in batch:
            future.set_result(answers[at : at + len(rows)])
            at += len(rows)


batched = Batcher(predict)


def answer(found: Any) -> Response:
    """Return JSON."""
    return Response(orjson.dumps(found), media_type="application/json")


@app.post("/echo")
async def echo(request: Request) -> Response:
    """Return what came."""
    return answer(orjson.loads(await request.body()))


@app.post("/mlp")
async def of_mlp(request: Request) -> Response:
    """Compute one request."""
    return answer({"y": predict(orjson.loads(await request.body())["x"]).tolist()})


@app.post("/mlp_batch")
async def of_mlp_batch(request: Request) -> Response:
    """Compute some requests together."""
    rows = np.asarray(orjson.loads(await request.body())["x"], dtype=np.float32)
    return answer({"y": (await batched(rows)).tolist()})


@app.post("/encoder")
async def of_encoder(request: Request) -> Response:
    """Compute one text."""
    return answer({"y": encode(orjson.loads(await request.body())["x"]).tolist()})


@app.post("/means")
async def of_json(request: Request) -> Response:
    """Take a megabyte as JSON."""
    return answer({"y": means(orjson.loads(await request.body())["x"]).tolist()})


@app.post("/means_raw")
async def of_bytes(request: Request) -> Response:
    """Take a megabyte as it is."""
    return answer({"y": means(np.frombuffer(await request.body(), dtype=np.float32)).tolist()})


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="warning",
        access_log=False,
        loop="uvloop",
        http="httptools",
    )
