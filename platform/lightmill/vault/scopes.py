"""What a root key is for: the whole deployment, one workspace, or one asset.

A scope is text: "" is the deployment, "workspace:NAME" a workspace and "asset:NAME/MID" one asset of it. A
key that has a scope of its own can be destroyed without touching anything else; that is what erasing is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lightmill.vault.derivation import ASSET_ID_CHARS

DEPLOYMENT = ""
_WORKSPACE = "workspace:"
_ASSET = "asset:"


def workspace_scope(workspace: str) -> str:
    """Return the scope of everything in one workspace."""
    return _WORKSPACE + workspace


def asset_scope(workspace: str, mid: str) -> str:
    """Return the scope of the versions of one asset."""
    return f"{_ASSET}{workspace}/{mid}"


def scopes_of(context: Mapping[str, str]) -> Iterator[str]:
    """Yield the scopes that a wrapping context names, the narrowest first."""
    workspace, mid = context.get("workspace"), context.get("mid")
    if workspace and mid:
        yield asset_scope(workspace, mid)
    if workspace:
        yield workspace_scope(workspace)
    yield DEPLOYMENT


def within(scope: str, outer: str) -> bool:
    """Return whether `scope` is `outer` or lies inside it."""
    if outer in (DEPLOYMENT, scope):
        return True
    asset = scope.removeprefix(_ASSET)
    return asset != scope and workspace_scope(asset[: -ASSET_ID_CHARS - 1]) == outer


def describe(scope: str) -> str:
    """Return the scope in words, for errors and tables."""
    if scope == DEPLOYMENT:
        return "the deployment"
    kind, _, rest = scope.partition(":")
    return f"workspace {rest!r}" if kind == "workspace" else f"asset {rest}"
