"""The control application's pieces, joined: service, loop, HTTP application."""

from __future__ import annotations

import threading

from fastapi import FastAPI

import lightmill
from lightmill.access import KeyChecker
from lightmill.api import build_app
from lightmill.control.jobs import Jobs
from lightmill.control.loop import ControlLoop
from lightmill.control.ray_serve import ServeAdapter
from lightmill.control.service import ControlService
from lightmill.settings import Settings
from lightmill.wiring.log_masking import mask_logs
from lightmill.wiring.platform import open_platform


class ControlPlane:
    """One running control plane; constructing it starts the reconcile loop."""

    def __init__(self, settings: Settings) -> None:
        platform = open_platform(settings)
        mask_logs(platform)
        self._catalog = platform.catalog
        jobs = Jobs(settings, platform.catalog)
        serve = ServeAdapter(
            platform.location,
            settings.local_url,
            loopback=settings.loopback,
            allow_python=settings.serve_python_steps,
            balance_path=settings.run_path / "h" / "balance",
        )
        loop = ControlLoop(platform.catalog, platform.registry, serve, jobs)
        loop.begin()
        service = ControlService(settings, platform.catalog, platform.registry, platform.location, jobs, loop.wake)
        self.app: FastAPI = build_app(service, self._keys, lightmill.__version__)
        self._stop = threading.Event()
        threading.Thread(target=loop.run, args=(self._stop,), name="control-loop", daemon=True).start()

    def _keys(self) -> KeyChecker:
        return KeyChecker(self._catalog.keys.list())
