"""Removing any one fsync from the local store is noticed."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightmill.storage.local as local

SYNCS = ("_fsync", "_sync_directory")


def is_sync(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Attribute)
        and node.value.func.attr in SYNCS
    )


def mutants() -> Iterator[tuple[int, type]]:
    """Every version of LocalStore that lacks one call that makes something durable, with that call's line."""
    source = Path(local.__file__).read_text()
    lines = [node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt) and is_sync(node)]
    for line in lines:
        tree = ast.parse(source)
        for node in ast.walk(tree):
            for body in (getattr(node, name, None) for name in ("body", "finalbody", "orelse")):
                if isinstance(body, list):
                    body[:] = [ast.Pass() if is_sync(x) and x.lineno == line else x for x in body]
        namespace: dict[str, Any] = {"__name__": "mutant"}
        exec(compile(ast.fix_missing_locations(tree), "mutant", "exec"), namespace)
        yield line, namespace["LocalStore"]


def trace(kind: type, root: Path) -> list[tuple[str, bool]]:
    """What is synced, and whether the object had its name by then, while two objects come and one goes."""
    calls: list[tuple[str, bool]] = []

    def fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        name = "temporary" if path.name.startswith("tmp-") else os.path.relpath(path, root)
        calls.append((name, (root / "b/x").exists()))

    store = kind(root, fsync=fsync)
    store.create("b/x", b"1")
    store.create("b/y", b"2")
    store.delete("b/x")
    return calls


def test_a_store_that_lacks_one_sync_is_told_from_the_true_one(tmp_path: Path) -> None:
    expected = trace(local.LocalStore, tmp_path / "true" / "store")
    assert [name for name, _ in expected].count("temporary") == 2
    killed = []
    for line, kind in mutants():
        assert trace(kind, tmp_path / str(line) / "store") != expected, f"line {line} can be removed unnoticed"
        killed.append(line)
    print(f"{len(killed)} calls removed, one at a time, at lines {killed}: every removal noticed")
    assert len(killed) == 6
