"""Sealed checkpoints: every worker's part of a state goes straight into the vault, as one version of the run.

A checkpoint is published when all parts are on the store: the commit record makes it visible, whole or not at all.
Training goes on meanwhile with the state copied; at most one checkpoint is on its way.
"""

from __future__ import annotations

import json
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from lightmill.errors import IntegrityError, JobError, LightmillError
from lightmill.records.assets import BlobEntry, Provenance, RunCard, TensorEntry
from lightmill.records.references import AssetKind, VersionId
from lightmill.records.training import CheckpointSpec
from lightmill.registry import Content, OpenVersion, RegistryLocation
from lightmill.registry.draft import Draft, DraftId
from lightmill.registry.tensors import plain_tensors
from lightmill.training.exchange import Exchange
from lightmill.training.keeping import SCORE, Kept, checkpoints_of, kept, let_go
from lightmill.training.shards import chunk_of, owned, read_chunks, read_whole, stored_chunks
from lightmill.training.strategies import State
from lightmill.training.team import Team

STATE_FILE = "state.json"
SEPARATOR = "/"
MODEL = "model"
AVERAGED = "averaged"
EPOCHS_KEPT = 256
"""More epochs than end between two looks of Ray Train's for reports."""
Published = Callable[[VersionId], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a run is: whole epochs done, and steps of the next."""

    epoch: int
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a run goes on from; `totals` are the sums of the epoch under way, `epochs` what the last ones measured."""

    state: State
    position: Position
    totals: torch.Tensor | None
    epochs: list[dict[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Whose checkpoints they are, and which of them stay."""

    location: RegistryLocation
    name: str
    model: str
    provenance: Provenance
    spec: CheckpointSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class _Copy:
    """What one worker seals of a state: its own parts, numbers and texts, and on the leader the card."""

    tensors: dict[str, torch.Tensor]
    values: dict[str, Any]
    card: RunCard
    totals: list[float] | None
    epochs: list[dict[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What one worker has sealed, or why it could not."""

    tensors: tuple[TensorEntry, ...] = ()
    blobs: tuple[BlobEntry, ...] = ()
    values: dict[str, Any] | None = None
    error: LightmillError | None = None


class Sealer:
    """Seals the checkpoints of a run, one worker's side; all workers call its methods in the same order.

    Attributes:
        last: The last checkpoint that was published, or that the run went on from.
        epochs: What the last epochs measured, which goes with a checkpoint.
    """

    def __init__(self, run: Run, team: Team, published: Published = lambda _: None) -> None:
        """Open the registry and make the workers' exchanges; `published` is called on the leader, in a thread.

        Copies are made by the thread that trains, also while another one publishes: each has a group of its own.
        """
        self._run = run
        self._team = team
        self._published = published
        self._exchange = Exchange(team)
        self._copying = Exchange(team)
        self._registry = run.location.open()
        self._known: list[Kept] = checkpoints_of(self._registry, run.name) if team.leads else []
        self._memory: dict[str, torch.Tensor] = {}
        self._held: _Copy | None = None
        self._held_memory: dict[str, torch.Tensor] = {}
        self._leaving_memory: dict[str, torch.Tensor] = {}
        self._thread: threading.Thread | None = None
        self._failed: BaseException | None = None
        self.last: VersionId | None = None
        self.epochs: deque[dict[str, float]] = deque(maxlen=EPOCHS_KEPT)

    def seal(self, state: State, position: Position, metrics: dict[str, float], totals: torch.Tensor | None) -> None:
        """Copy a state and seal the copy, in a thread unless the specification forbids it.

        One that is held is sealed before it, if it is better.

        Raises:
            LightmillError: The checkpoint before could not be sealed, or this one, if no thread does it.
        """
        self.finish()
        held, self._held = self._held, None
        better = held is not None and held.card.metrics[SCORE] < metrics.get(SCORE, math.inf)
        copies = [held] if held is not None and better else []
        self._held_memory, self._leaving_memory = self._leaving_memory, self._held_memory
        copies.append(self._copied(state, self._card(position, metrics), totals, self._memory))
        if not self._run.spec.asynchronous:
            self._publish(copies)
            return
        self._thread = threading.Thread(target=self._in_thread, args=(copies,), name="seal-checkpoint", daemon=True)
        self._thread.start()

    def hold(self, state: State, position: Position, metrics: dict[str, float]) -> None:
        """Copy the state after an epoch, to be sealed with the next; what was held before is forgotten."""
        self._held = self._copied(state, self._card(position, metrics), None, self._held_memory)

    def finish(self) -> None:
        """Wait until the checkpoint that is on its way is published; see `seal` for the errors."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    def _card(self, position: Position, metrics: dict[str, float]) -> RunCard:
        return RunCard(model=self._run.model, epoch=position.epoch, step=position.step, metrics=metrics)

    def _in_thread(self, copies: list[_Copy]) -> None:
        try:
            self._publish(copies)
        except BaseException as exc:  # noqa: BLE001 - raised by `finish`, where the run can end with it
            self._failed = exc

    def _copied(
        self, state: State, card: RunCard, totals: torch.Tensor | None, memory: dict[str, torch.Tensor]
    ) -> _Copy:
        """Copy what this worker writes into memory that is used again."""
        flat = dict(_flat(state))
        held = {name: chunk_of(name, value) for name, value in flat.items() if isinstance(value, torch.Tensor)}
        mine = owned(self._copying.gathered([chunk for chunk, _ in held.values()]), self._team.rank)
        tensors = {}
        for chunk, local in held.values():
            if chunk.entry in mine:
                tensors[chunk.entry] = _remembered(memory, chunk.entry, local.detach())
        return _Copy(
            tensors=tensors,
            values={name: value for name, value in flat.items() if not isinstance(value, torch.Tensor)},
            card=card,
            totals=None if totals is None else totals.tolist(),
            epochs=list(self.epochs),
        )

    def _publish(self, copies: list[_Copy]) -> None:
        for copy in copies:
            self._publish_one(copy)

    def _publish_one(self, copy: _Copy) -> None:
        """Seal all workers' parts and commit them together."""
        draft = self._registry.begin(AssetKind.RUN, self._run.name) if self._team.leads else None
        id = self._exchange.from_leader(draft.id if draft else None)
        parts = self._exchange.gathered(self._sealed(draft, id, copy))
        outcome = self._exchange.from_leader(self._committed(draft, parts, copy) if draft else None)
        if isinstance(outcome, LightmillError):
            raise outcome
        self.last = outcome
        if self._team.leads and outcome is not None:
            self._published(outcome)
            self._known = let_go(self._registry, [*self._known, kept(outcome, copy.card)], self._run.spec)

    def _sealed(self, draft: Draft | None, id: DraftId | None, copy: _Copy) -> _Part:
        try:
            self._check_finite(copy)
            if id is None:
                raise IntegrityError("The leader began no draft.")
            found = (draft or self._registry.join(id)).seal_tensors(plain_tensors(copy.tensors), threads=1)
            return _Part(tensors=found.tensors, blobs=found.blobs, values=copy.values)
        except LightmillError as exc:
            return _Part(error=exc)

    def _check_finite(self, copy: _Copy) -> None:
        for name, value in copy.tensors.items():
            wrong = name.startswith(MODEL + SEPARATOR) and value.is_floating_point()
            if wrong and not value.sum().isfinite() and not value.isfinite().all():
                raise JobError(
                    f"Training diverged: {name.removeprefix(MODEL + SEPARATOR)!r} is not finite after step "
                    f"{copy.card.step} of epoch {copy.card.epoch + 1}, so no checkpoint was made of it. The last good "
                    f"one is {self.last or 'none'}. Lower `learning_rate` or set `clip_norm`."
                )

    def _committed(self, draft: Draft, parts: list[_Part], copy: _Copy) -> VersionId | LightmillError:
        """Commit the parts, or give the draft up."""
        try:
            for part in parts:
                if part.error is not None:
                    draft.release()
                    return part.error
            values: dict[str, Any] = {}
            for part in reversed(parts):
                values |= part.values or {}
            notes = {
                "epoch": copy.card.epoch,
                "step": copy.card.step,
                "totals": copy.totals,
                "epochs": copy.epochs,
                "values": values,
            }
            files = draft.seal_files({STATE_FILE: json.dumps(notes).encode()})
            content = Content(
                tensors=tuple(entry for part in parts for entry in part.tensors),
                files=files.files,
                blobs=(*(blob for part in parts for blob in part.blobs), *files.blobs),
                run=copy.card,
                provenance=self._run.provenance,
            )
            return self._registry.commit(draft, content).id
        except LightmillError as exc:
            return exc


def load_state(version: OpenVersion, like: State) -> Loaded:
    """Read a run's version back, in the form of `like`, whoever sealed which part of it.

    Raises:
        IntegrityError: Its bytes are not what was written, or it has not what `like` has.
    """
    notes = json.loads(version.read_file(STATE_FILE))
    flat = dict(_flat(like))
    values: dict[str, Any] = dict(notes["values"])
    wanted = {}
    for name, value in flat.items():
        if isinstance(value, torch.Tensor):
            values[name] = torch.empty_like(value)
            wanted[name] = chunk_of(name, values[name])
        elif name not in values:
            raise IntegrityError(f"{version.id} does not say {name!r}; the run's specification was another one.")
    read_chunks(version, wanted)
    totals = None if notes["totals"] is None else torch.tensor(notes["totals"], dtype=torch.float64)
    return Loaded(
        state=_nested(like, values, ""),
        position=Position(epoch=notes["epoch"], step=notes["step"]),
        totals=totals,
        epochs=notes.get("epochs", []),
    )


def load_model_state(version: OpenVersion) -> dict[str, torch.Tensor]:
    """Read only the model's tensors of a run's version, whole, averaged ones where there are any."""
    found: dict[str, torch.Tensor] = {}
    for prefix in (MODEL, AVERAGED):
        names = [name for name in stored_chunks(version) if name.startswith(prefix + SEPARATOR)]
        found |= {name.removeprefix(prefix + SEPARATOR): value for name, value in read_whole(version, names).items()}
    return found


def _remembered(memory: dict[str, torch.Tensor], entry: str, value: torch.Tensor) -> torch.Tensor:
    """Copy a value to where a value of this entry was copied before."""
    place = memory.get(entry)
    if place is None or place.shape != value.shape or place.dtype != value.dtype:
        place = memory[entry] = torch.empty(value.shape, dtype=value.dtype)
    return place.copy_(value)


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what a nested dictionary holds by its path."""
    if not isinstance(value, dict):
        yield path, value
        return
    for key, inner in value.items():
        yield from _flat(inner, f"{path}{SEPARATOR}{key}" if path else str(key))


def _nested(like: Any, values: dict[str, Any], path: str) -> Any:
    """Return values in the form of another nested dictionary."""
    if not isinstance(like, dict):
        return values[path]
    return {key: _nested(inner, values, f"{path}{SEPARATOR}{key}" if path else str(key)) for key, inner in like.items()}
