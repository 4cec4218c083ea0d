"""What a version holds: the sealed manifest and its cards.

docs/format.md is the specification of how these are stored.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lightmill.records.annotations import Notes, Stage
from lightmill.records.base import Record
from lightmill.records.fitted import TabularPreparation, TokenPreparation, TrainingPreparation
from lightmill.records.masking import MaskingReport
from lightmill.records.references import AssetKind, VersionId
from lightmill.records.signature import Architecture, Preprocessing, Signature, TensorSpec


class Piece(Record):
    """A run of plaintext bytes inside one blob of this version."""

    blob: str
    offset: int
    length: int


class BlobEntry(Record):
    """One data blob: its object name's digest, its own key (hex) and its lengths in bytes.

    `dedup` is the keyed BLAKE3 of the plaintext, in hex.
    """

    id: str
    key: str = Field(repr=False)
    length: int
    size: int
    dedup: str


class TensorEntry(Record):
    """One tensor: safetensors dtype name, shape, and where its bytes lie, in order."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]


class FileEntry(Record):
    """One file of the version.

    A file in blobs has `pieces`; an encrypted Parquet file is an object of its own and has `object` (the
    SHA-256 of its bytes, which is its name) instead. `sha256` is of the plaintext for the former and of the
    encrypted bytes for the latter; a Parquet file's `blake3` is of the same bytes and quicker to check, None where a
    version is older than that. `group` is the split that a dataset's file belongs to, `content` the digest of
    its table (see `datasets.content`), `lender` the place in the manifest's `lenders` of the version that wrote it,
    None for this one.
    """

    path: str
    size: int
    sha256: str
    pieces: tuple[Piece, ...] = ()
    object: str | None = None
    blake3: str | None = None
    rows: int | None = None
    group: str | None = None
    content: str | None = None
    lender: int | None = None


class Lender(Record):
    """An earlier version whose Parquet files this one shares, and their keys (hex) by name."""

    seq: int
    subkeys: dict[str, str] = Field(repr=False)


class CodeState(Record):
    """The source revision that made a version; `commit` is None outside a git checkout.

    `diff` is what was not committed, as text that `git apply` takes, in the sealed manifest only. `left_out` names
    changed files that are not in it, each with the reason.
    """

    commit: str | None = None
    dirty: bool = False
    diff: str = Field(default="", repr=False)
    left_out: tuple[str, ...] = ()


class HardwareState(Record):
    """What a run's leader computed on; the processor's `capability` and `threads` decide how sums are rounded.

    `device` is the name of a GPU, empty on the CPU; `workers` is how many trained.
    """

    machine: str
    processor: str
    capability: str
    system: str
    threads: int
    workers: int
    device: str = ""


class Provenance(Record):
    """Where a version came from; `base` is the model version whose weights it started from.

    `packages` are the main ones, `environment` are all that were installed, in the sealed manifest only.
    """

    dataset: VersionId | None = None
    base: VersionId | None = None
    run: str | None = None
    job: str | None = None
    code: CodeState = CodeState()
    packages: dict[str, str] = Field(default_factory=dict)
    spec: dict[str, object] = Field(default_factory=dict)
    environment: dict[str, str] = Field(default_factory=dict)
    hardware: HardwareState | None = None

    def listed(self) -> Provenance:
        """Return what may be seen outside the sealed manifest: no source text, and the main packages only."""
        return self.model_copy(update={"environment": {}, "code": self.code.model_copy(update={"diff": ""})})


class ColumnProfile(Record):
    """Statistics of one column over the kept rows of all splits, in source units.

    `missing` counts the source's rows, dropped ones included.
    """

    name: str
    dtype: str
    count: int
    missing: int
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    std: float | None = None


class Profile(Record):
    """What ingestion found and did, without any value. `dropped` and `quarantined` map a reason to a number of rows."""

    rows_in: int
    rows_kept: int
    dropped: dict[str, int]
    clipped: int = 0
    quarantined: dict[str, int] = Field(default_factory=dict)
    masked: MaskingReport | None = None
    splits: dict[str, int]
    classes: dict[str, int] = Field(default_factory=dict)
    columns: tuple[ColumnProfile, ...] = ()


class SourceFile(Record):
    """A source file that was read, by name and digest of its bytes."""

    name: str
    size_bytes: int
    sha256: str


class RowOrigin(Record):
    """Which entry of a card's `sources` the rows of file positions from `first` on come from.

    The file position is the high part of a row id. Position `first + n` is entry `source + n`; with `rows_are_files`,
    every position is a group of so many entries, one for each row. With `part`, position `first` alone is that part of
    entry `source`, such as a key range of a table.
    """

    first: int
    source: int
    rows_are_files: int | None = None
    part: str = ""


class DatasetCard(Record):
    """What a dataset version is.

    Its Parquet columns are `row_id` int64 (position in the source), `label` int64 (index into `classes`, if there are
    any), the prepared `features` float32 [feature_size] as a fixed-size list, and, if `source_columns` is not empty,
    the cleaned source columns by those names. Rows kept aside are files of the group `quarantine`.

    Where `preparation` is given, rows of named columns are prepared by it, and `preprocessing` has no steps. `origins`
    say where row ids lead, in order of `first`; without any, file position n is entry n of `sources`. Where `tokens` is
    given, rows hold token ids. Where `training` is given, files hold its `columns` instead of `features`, and its steps
    lead there.

    `content_digest` is the same for every version that holds the same rows, however often and wherever they are sealed;
    `appended_to` is the number of the version whose files this one shares.
    """

    features: TensorSpec
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    source_columns: tuple[str, ...]
    sources: tuple[SourceFile, ...]
    profile: Profile
    description: str = ""
    licence: str = ""
    preparation: TabularPreparation | None = None
    origins: tuple[RowOrigin, ...] = ()
    content_digest: str = ""
    appended_to: int | None = None
    tokens: TokenPreparation | None = None
    training: TrainingPreparation | None = None


class ModelCard(Record):
    """What a model version is: enough to build it, feed it and judge it.

    A language model has `tokens`, which say how its token ids are made, and no classes.
    """

    architecture: Architecture
    preprocessing: Preprocessing
    signature: Signature
    classes: tuple[str, ...]
    metrics: dict[str, float]
    preparation: TabularPreparation | None = None
    tokens: TokenPreparation | None = None


class RunCard(Record):
    """One checkpoint of a run: after `epoch` whole epochs and `step` steps of the next."""

    model: str
    epoch: int
    metrics: dict[str, float]
    step: int = 0


class Manifest(Record):
    """The sealed description of one version; everything secret about it, blob keys included, is in here."""

    format: Literal[1] = 1
    kind: AssetKind
    name: str
    seq: int
    created: str
    parent: str | None
    provenance: Provenance = Provenance()
    files: tuple[FileEntry, ...] = ()
    tensors: tuple[TensorEntry, ...] = ()
    safetensors_header: str = ""
    blobs: tuple[BlobEntry, ...] = ()
    lenders: tuple[Lender, ...] = ()
    dataset: DatasetCard | None = None
    model: ModelCard | None = None
    run: RunCard | None = None


class BlobRef(Record):
    """An object that a commit record keeps alive: its id and its size in bytes."""

    id: str
    size: int


class CommitRecord(Record):
    """The signed, public statement that a version exists; creating it is the commit."""

    format: Literal[1] = 1
    store: str
    workspace: str
    mid: str
    seq: int
    parent: str | None
    manifest: BlobRef
    blobs: tuple[BlobRef, ...]
    created: str
    publisher: str
    nonce: str


class AliasEntry(Record):
    """One signed move of an alias; the entry with the highest `n` is current.

    `parent` is the SHA-256 of entry n - 1, `record` the digest of the commit record that it points to.
    """

    format: Literal[1] = 1
    store: str
    workspace: str
    mid: str
    alias: str
    n: int
    parent: str | None
    seq: int
    record: str
    created: str
    publisher: str
    nonce: str


class Tombstone(Record):
    """The signed statement that a version is deleted; it is never taken back, and the number never used again.

    `record` is the digest of the version's commit record. `reason` is readable by whoever reads the store.
    """

    format: Literal[1] = 1
    store: str
    workspace: str
    mid: str
    seq: int
    record: str
    created: str
    publisher: str
    nonce: str
    reason: str


class AliasMove(Record):
    """One move of an alias as people read it: when, from which version (0: nowhere) to which, signed by whom."""

    alias: str
    n: int
    at: str
    source: int
    target: int
    publisher: str


class Deletion(Record):
    """When a version was deleted, why, and which key signed that."""

    at: str
    reason: str
    publisher: str


class VersionSummary(Record):
    """A version as the catalog lists it: what people search and compare.

    Of a deleted version only `id`, `mid`, `created`, `size_bytes` and `deleted` are left.
    """

    id: VersionId
    mid: str
    created: str
    size_bytes: int
    metrics: dict[str, float] = Field(default_factory=dict)
    provenance: Provenance = Provenance()
    card: dict[str, object] = Field(default_factory=dict)
    stage: Stage = Stage.NONE
    tags: dict[str, str] = Field(default_factory=dict)
    deleted: Deletion | None = None


class AssetSummary(Record):
    """An asset with its newest version and its aliases (alias to version number).

    `versions` counts those that are not deleted and `latest` is the newest of them, 0 when there is none.
    """

    kind: AssetKind
    name: str
    mid: str
    versions: int
    latest: int
    created: str
    updated: str
    aliases: dict[str, int] = Field(default_factory=dict)


class AssetDetail(Record):
    """An asset with its versions, newest first."""

    asset: AssetSummary
    versions: tuple[VersionSummary, ...]


class VersionDetail(Record):
    """A version with what is said of it, the dataset it comes from, and what came of it."""

    version: VersionSummary
    notes: Notes = Notes()
    dataset: VersionSummary | None
    endpoints: tuple[str, ...]
    derived: tuple[str, ...]


class LineageChild(Record):
    """A version that was made from another, and the endpoints that answer with it."""

    id: VersionId
    endpoints: tuple[str, ...] = ()


class Lineage(Record):
    """Back to the dataset, its sources, the base model, run, code and packages; forward to endpoints and children."""

    version: VersionSummary
    dataset: VersionSummary | None
    base: VersionSummary | None
    sources: tuple[SourceFile, ...]
    endpoints: tuple[str, ...]
    children: tuple[LineageChild, ...]
