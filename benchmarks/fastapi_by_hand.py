"""What a careful engineer serves without Lightmill: FastAPI, uvicorn, torch, one file.

Run: python benchmarks/fastapi_by_hand.py MODEL.json PORT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.ddp_by_hand import network

torch.set_num_threads(1)
saved = json.loads(Path(sys.argv[1]).read_text())
model = network(**saved["arguments"])
model.load_state_dict({name: torch.tensor(value) for name, value in saved["weights"].items()})
model.eval()
mean, scale = torch.tensor(saved["mean"]), torch.tensor(saved["scale"])
app = FastAPI()


class Tensor(BaseModel):
    """One input tensor."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class Infer(BaseModel):
    """An inference request."""

    inputs: list[Tensor]


@app.get("/v2/models/digits/ready")
async def ready() -> dict[str, bool]:
    """Say that the server is up."""
    return {"ready": True}


@app.post("/v2/models/digits/infer")
async def infer(request: Infer) -> dict[str, object]:
    """Answer one request."""
    tensor = request.inputs[0]
    with torch.inference_mode():
        features = torch.tensor(tensor.data).reshape(tensor.shape)
        probabilities = torch.softmax(model((features - mean) / scale), dim=-1)
    rows = len(probabilities)
    return {
        "model_name": "digits",
        "outputs": [
            {
                "name": "probabilities",
                "datatype": "FP32",
                "shape": list(probabilities.shape),
                "data": probabilities.flatten().tolist(),
            },
            {"name": "label", "datatype": "INT64", "shape": [rows], "data": probabilities.argmax(dim=-1).tolist()},
        ],
    }


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False)
