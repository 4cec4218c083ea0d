"""Functions of a user's own code, found by their import path, and only where the caller allows it. No torch, no Ray."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from lightmill.errors import RequestError

ALLOWED_BY = "LIGHTMILL_ALLOW_PYTHON_STEPS"


def load_function(
    path: str, what: str, *, allowed: bool, allowed_by: str = ALLOWED_BY, calls: str | None = None
) -> Callable[..., Any]:
    """Import `package.module:function`.

    Args:
        path: The function.
        what: What asks for it, as errors name it.
        allowed: Whether functions may be called here.
        allowed_by: The setting that allows it.
        calls: How an error says that it is not allowed; by default `<what> calls <path>`.

    Raises:
        RequestError: Functions are not allowed here, or there is no such module or function.
    """
    if not allowed:
        raise RequestError(
            f"{calls or f'{what} calls {path!r}'}, and functions are not allowed here. Where its code is "
            f"trusted, set {allowed_by}=true for the platform and start it again."
        )
    module, _, attribute = path.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as exc:
        raise RequestError(
            f"{what}: there is no module {exc.name!r}, which {path!r} needs. Put it into the "
            "specification's folder, or install it on every node."
        ) from exc
    except AttributeError as exc:
        raise RequestError(f"{what}: the module {module!r} has no function {attribute!r}.") from exc
    except Exception as exc:  # a user's module may raise anything
        raise RequestError(f"{what}: importing {module!r} failed: {type(exc).__name__}: {exc}.") from exc
    if not callable(found):
        raise RequestError(f"{what}: {path!r} is a {type(found).__name__}, not a function.")
    return found
