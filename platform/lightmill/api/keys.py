"""The routes of API keys. A key's text is in the answer that makes it and nowhere else; nobody may keep that answer."""

from __future__ import annotations

from fastapi import APIRouter, Response

from lightmill.api.routes import PREFIX
from lightmill.control.access import KeyService
from lightmill.records.keys import KeyRequest, KeySummary, MintedKey, RotateRequest


def key_router(service: KeyService) -> APIRouter:
    """Return the routes below /api/v1/keys."""
    router = APIRouter(prefix=f"{PREFIX}/keys")

    @router.post("", status_code=201)
    def create_key(request: KeyRequest, response: Response) -> MintedKey:
        response.headers["Cache-Control"] = "no-store"
        return service.create(request)

    @router.get("")
    def list_keys() -> list[KeySummary]:
        return service.list()

    @router.post("/{id}/rotate")
    def rotate_key(id: str, request: RotateRequest, response: Response) -> MintedKey:
        response.headers["Cache-Control"] = "no-store"
        return service.rotate(id, request.overlap_s)

    @router.delete("/{id}")
    def revoke_key(id: str) -> KeySummary:
        return service.revoke(id)

    return router
