"""The routes of datasets, models and jobs over a small deployment, on a real port, with a key in front."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn
from fastapi import APIRouter, FastAPI

from lightmill.access import KeyChecker, mint_key
from lightmill.api.app import handle_errors
from lightmill.api.assets import asset_routes
from lightmill.api.gate import Gate
from lightmill.api.routes import job_routes
from lightmill.control.assets import AssetService
from lightmill.control.jobs import Jobs
from lightmill.control.service import ControlService
from lightmill.records.search import Comparison
from lightmill.registry import RegistryLocation
from lightmill.settings import Settings
from tests.unit.registry.world import World


@dataclass(kw_only=True)
class Served:
    """Where it listens, the key that it takes, and how often the control loop was woken."""

    world: World
    url: str
    key: str
    woken: list[None] = field(default_factory=list)


@contextmanager
def served(world: World, required: tuple[Comparison, ...] = ()) -> Iterator[Served]:
    text, key = mint_key("test")
    found = Served(world=world, url="", key=text)
    location = RegistryLocation(store_url=str(world.root), keyring_path=str(world.ring.path), workspace="default")
    service = AssetService(world.catalog, world.registry, location, required, lambda: found.woken.append(None))
    app, router = FastAPI(), APIRouter(prefix="/api/v1")
    asset_routes(router, service)
    settings = Settings(home=world.root / "home")
    jobs = Jobs(settings, world.catalog)
    job_routes(router, ControlService(settings, world.catalog, world.registry, location, jobs, lambda: None))
    app.include_router(router)
    handle_errors(app)
    app.add_middleware(Gate, keys=lambda: KeyChecker([key]), prefix="/api/v1")
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        found.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        yield found
    finally:
        server.should_exit = True
        thread.join()
