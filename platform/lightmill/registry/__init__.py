"""Versions, aliases and lineage over the encrypted object store.

Importing this package does not load torch; `lightmill.registry.tensors`, the tensor loader, does.
"""

from __future__ import annotations

from lightmill.registry.draft import Draft, DraftId
from lightmill.registry.opening import RegistryLocation, initialize_store, read_store_id
from lightmill.registry.policies import PolicyBook
from lightmill.registry.publishing import Content
from lightmill.registry.registry import Registry
from lightmill.registry.version import OpenVersion

__all__ = [
    "Content",
    "Draft",
    "DraftId",
    "OpenVersion",
    "PolicyBook",
    "Registry",
    "RegistryLocation",
    "initialize_store",
    "read_store_id",
]
