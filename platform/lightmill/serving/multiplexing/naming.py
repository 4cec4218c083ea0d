"""Which version a request means by a model's name, looked up again after a while. Blocking: call it in a thread."""

from __future__ import annotations

import time
from collections.abc import Callable

from lightmill.errors import NotFoundError
from lightmill.records.multiplexing import ModelsSpec
from lightmill.records.references import AssetKind, Reference, VersionId

MOST_KNOWN = 100_000
Resolve = Callable[[AssetKind, Reference], VersionId]


class Names:
    """Versions by the names of models, as the registry resolves them."""

    def __init__(self, spec: ModelsSpec, resolve: Resolve, clock: Callable[[], float] = time.monotonic) -> None:
        self._spec = spec
        self._resolve = resolve
        self._clock = clock
        self._known: dict[str, tuple[float, VersionId]] = {}

    def known(self, name: str) -> VersionId | None:
        """Return a version that was looked up lately, without looking it up."""
        found = self._known.get(name)
        return found[1] if found is not None and self._clock() < found[0] else None

    def version(self, name: str) -> VersionId:
        """Return the version that answers for a name.

        Raises:
            NotFoundError: This endpoint does not serve it, or there is no such model or alias.
            IntegrityError: A record on the store is not what was written.
        """
        found = self.known(name)
        if found is not None:
            return found
        if not self._spec.takes(name):
            raise NotFoundError(
                f"Header x-model is {name[:80]!r}, which this endpoint does not serve; it serves "
                f"{', '.join(self._spec.names)}."
            )
        found = self._resolve(AssetKind.MODEL, Reference(name=name, selector=self._spec.alias))
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known[name] = (self._clock() + self._spec.follow_s, found)
        return found
