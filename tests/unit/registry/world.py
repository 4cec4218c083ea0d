"""A small deployment without processes: a key ring, a store, a catalog, and registries on them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lightmill.catalog import Catalog
from lightmill.errors import UnavailableError
from lightmill.models.answers import signature_of
from lightmill.records.assets import ModelCard, VersionSummary
from lightmill.records.references import AssetKind, Reference, VersionId
from lightmill.records.signature import Architecture, Preprocessing, TensorSpec
from lightmill.registry import Content, Draft, OpenVersion, Registry, initialize_store
from lightmill.registry.tensors import load_tensors, seal_model
from lightmill.storage import BlobStore, LocalStore
from lightmill.vault import KeyRing

if TYPE_CHECKING:
    from typing_extensions import Buffer

MODEL = AssetKind.MODEL


class World:
    """One store in a folder with one key ring and one catalog."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "store"
        self.store = LocalStore(self.root, fsync=lambda _: None)
        self.ring = KeyRing.create(folder / "keys" / "ring.json")
        self.store_id = initialize_store(self.store)
        self.catalog = Catalog.open(f"sqlite:///{folder / 'catalog.db'}")
        self.catalog.migrate()
        self.registry = self.new_registry(catalog=self.catalog)

    def new_registry(
        self, *, store: BlobStore | None = None, ring: KeyRing | None = None, catalog: Catalog | None = None
    ) -> Registry:
        """A registry of its own, as another process has one; without a catalog unless one is given."""
        return Registry(store or self.store, ring or self.ring, "default", self.store_id, catalog)

    def new_catalog(self, name: str = "another.db") -> Catalog:
        catalog = Catalog.open(f"sqlite:///{self.folder / name}")
        catalog.migrate()
        return catalog

    def names(self, prefix: str = "") -> list[str]:
        return list(self.store.list(prefix))

    def path(self, name: str) -> Path:
        return self.store.path(name)

    def copy_of_store(self, name: str = "copy") -> LocalStore:
        shutil.copytree(self.root, self.folder / name)
        return LocalStore(self.folder / name, fsync=lambda _: None)


def weights(start: float = 0.0) -> dict[str, torch.Tensor]:
    """The state of a logistic regression of 4 features and 3 classes."""
    return {"weight": torch.arange(12.0).reshape(3, 4) + start, "bias": torch.arange(3.0) - start}


def card(classes: tuple[str, ...] = ("a", "b", "c"), features: str = "x") -> ModelCard:
    return ModelCard(
        architecture=Architecture(name="logistic", arguments={"inputs": 4, "classes": 3}),
        preprocessing=Preprocessing(),
        signature=signature_of(TensorSpec(name=features, datatype="FP32", shape=(4,)), len(classes)),
        classes=classes,
        metrics={"test_accuracy": 0.5},
    )


def seal(draft: Draft, state: Mapping[str, torch.Tensor], model: ModelCard | None = None) -> Content:
    """Write a state dict through a draft; return what to commit."""
    sealed = seal_model(draft, state)
    return Content(
        files=(sealed.file,),
        tensors=sealed.tensors.tensors,
        safetensors_header=sealed.header,
        blobs=sealed.tensors.blobs,
        model=model or card(),
    )


def publish(
    registry: Registry,
    name: str = "m",
    state: Mapping[str, torch.Tensor] | None = None,
    model: ModelCard | None = None,
) -> VersionSummary:
    draft = registry.begin(MODEL, name)
    return registry.commit(draft, seal(draft, state or weights(), model))


def open_latest(registry: Registry, name: str = "m") -> OpenVersion:
    return registry.open(registry.resolve(MODEL, Reference(name=name)))


def read(registry: Registry, id: VersionId) -> dict[str, torch.Tensor]:
    return load_tensors(registry.open(id))


class FailingStore(BlobStore):
    """Passes everything on, but the n-th `create` raises: before the object is made, or after ("lost answer")."""

    def __init__(self, inner: BlobStore, fail_at: int, *, after: bool = False) -> None:
        self.inner = inner
        self.fail_at = fail_at
        self.after = after
        self.created: list[str] = []
        self.failed: str | None = None

    @property
    def url(self) -> str:
        return self.inner.url

    def create(self, name: str, data: Buffer) -> None:
        self.created.append(name)
        if len(self.created) != self.fail_at:
            self.inner.create(name, data)
            return
        self.failed = name
        if self.after:
            self.inner.create(name, data)
        raise UnavailableError(f"The store went away at {name}")

    def get(self, name: str) -> bytes:
        return self.inner.get(name)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self.inner.get_range(name, offset, length)

    def read_into(self, name: str, offset: int, out: memoryview) -> None:
        self.inner.read_into(name, offset, out)

    def head(self, name: str) -> int:
        return self.inner.head(name)

    def list(self, prefix: str) -> Iterator[str]:
        return self.inner.list(prefix)

    def delete(self, name: str) -> None:
        self.inner.delete(name)
