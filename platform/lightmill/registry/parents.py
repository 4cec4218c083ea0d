"""Which version the next one shares blobs with."""

from __future__ import annotations

import logging

from lightmill.errors import IntegrityError, NotFoundError
from lightmill.records.references import AssetKind, Reference
from lightmill.registry.registry import Registry
from lightmill.registry.version import OpenVersion

logger = logging.getLogger("lightmill.registry")


def newest_version(registry: Registry, kind: AssetKind, name: str) -> OpenVersion | None:
    """Return the newest version of an asset, for `Draft.seal_tensors`; None if there is none that can be read.

    A parent is worth having and never needed: one that does not verify is left out, with a line in the log.

    Raises:
        UnavailableError: The store or the key service does not answer.
    """
    try:
        return registry.open(registry.resolve(kind, Reference(name=name)))
    except NotFoundError:
        return None
    except IntegrityError as exc:
        logger.warning("%s %s shares no blobs with its newest version: %s", kind, name, exc.message)
        return None
