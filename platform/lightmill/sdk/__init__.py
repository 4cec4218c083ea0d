"""The Python client of a Lightmill platform: HTTP only, no ray, no torch.

client = lightmill.connect()
job = client.jobs.train("examples/digits/train.yaml")
client.jobs.wait(job.id)
"""

from __future__ import annotations

from lightmill.sdk.client import Client, connect
from lightmill.sdk.curves import MetricsView
from lightmill.sdk.endpoints import Prediction
from lightmill.sdk.profiles import ProfileView
from lightmill.sdk.progress import JobBar, progress_bars

__all__ = ["Client", "JobBar", "MetricsView", "Prediction", "ProfileView", "connect", "progress_bars"]
