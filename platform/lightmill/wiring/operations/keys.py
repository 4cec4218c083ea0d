"""Keys from the command line: protect the ring, choose a key service, rotate, isolate, erase, rekey, list.

Each works with the platform down. A running platform reads the key ring again when it changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from blake3 import blake3
from pydantic import SecretStr

from lightmill.catalog import Catalog
from lightmill.datasets.parquet import DATA_KEY, FOOTER_KEY, read_encrypted, write_encrypted
from lightmill.errors import LightmillError, NotFoundError, RequestError
from lightmill.records.assets import FileEntry
from lightmill.records.jobs import Progress
from lightmill.records.references import check_name, parse_reference
from lightmill.registry import Draft, OpenVersion, Registry, read_store_id
from lightmill.registry.erasure import KeyCare, Subject
from lightmill.registry.rekeying import rekey as rekey_version
from lightmill.registry.rotation import Rotated
from lightmill.storage import open_store
from lightmill.vault import (
    DEPLOYMENT,
    Argon2idKdf,
    AwsKmsSettings,
    KeyRing,
    Passphrase,
    RootKey,
    ScryptKdf,
    VaultTransitSettings,
    asset_scope,
    workspace_scope,
)
from lightmill.vault.receipts import AuditTrail, KeyAction, KeyFate, Receipt
from lightmill.vault.scopes import describe
from lightmill.wiring.operations import OperationContext
from lightmill.wiring.operations.key_records import (
    DestroyOptions,
    EraseResult,
    KeyList,
    KeyOptions,
    KeyRow,
    ProtectOptions,
    ReceiptList,
    RekeyOptions,
    RekeyResult,
    RewrapResult,
    RingState,
    RotateOptions,
    ScopeOptions,
    UseOptions,
)


def list_keys(context: OperationContext, options: KeyOptions) -> KeyList:
    """List the root keys with what is under each."""
    ring = _ring(context, options)
    use = _care(context, ring).use(progress=lambda done: _report(context, "count", done, 0, "versions"))
    with _catalog(context) as catalog:
        rows = tuple(
            KeyRow(
                scope=_scope_name(key.scope, catalog),
                provider=key.provider,
                key_id=key.key_id,
                current=key.current,
                created=key.created,
                erased=key.erased.at if key.erased else "",
                receipt=key.erased.receipt if key.erased else "",
                versions=use.versions[key.provider, key.key_id],
                drafts=use.leases[key.provider, key.key_id],
            )
            for key in ring.root_keys
        )
    return KeyList(path=str(ring.path), protection=ring.protection, keys=rows)


def protect(context: OperationContext, options: ProtectOptions) -> RingState:
    """Seal the ring's secrets under a passphrase."""
    passphrase = _passphrase(options.new_passphrase) or Passphrase.from_environment()
    if passphrase is None:
        raise RequestError("Give a passphrase at the prompt, or name its file in LIGHTMILL_PASSPHRASE_FILE")
    kinds = {"argon2id": Argon2idKdf.fresh, "scrypt": ScryptKdf.fresh}
    if options.kdf not in kinds:
        raise RequestError(f"{options.kdf!r} is no key derivation here; choose argon2id or scrypt")
    ring = _ring(context, options)
    trail = _trail(ring)
    _report(context, "derive", 0, 1, "keys")
    ring.protect(passphrase, kinds[options.kdf]())
    receipt = trail.append(KeyAction.PROTECT, scope=DEPLOYMENT, what=f"the key ring, by {options.kdf}")
    return _state(ring, receipt)


def unprotect(context: OperationContext, options: KeyOptions) -> RingState:
    """Write the ring's secrets without a passphrase."""
    ring = _ring(context, options)
    trail = _trail(ring)
    ring.unprotect()
    return _state(ring, trail.append(KeyAction.UNPROTECT, scope=DEPLOYMENT, what="the key ring"))


def use(context: OperationContext, options: UseOptions) -> RingState:
    """Choose what wraps from now on; envelopes move over with `rotate`."""
    ring = _ring(context, options)
    trail = _trail(ring)
    uri = f"local-keyring:{ring.ring_id}" if options.provider == "local" else ring.add_service(_service(options))
    ring.add_root_key(DEPLOYMENT, service=uri, key_id=options.key_id or None)
    if options.wrap_ring:
        ring.protect_by_service()
    keys = (KeyFate(provider=ring.provider.uri, key_id=ring.provider.key_id),)
    what = f"the deployment{', and the key ring itself' if options.wrap_ring else ''}"
    return _state(ring, trail.append(KeyAction.USE, scope=DEPLOYMENT, what=what, keys=keys))


def rotate(context: OperationContext, options: RotateOptions) -> RewrapResult:
    """Make new root keys and wrap every envelope again."""
    care = _care(context, _ring(context, options))
    scope = workspace_scope(options.workspace) if options.workspace else DEPLOYMENT
    keys, rotated, receipt = care.rotate(
        workspace=options.workspace or None,
        scope=scope,
        new_keys=options.new_keys,
        progress=_progress(context, "rewrap"),
    )
    return _rewrapped(keys, rotated, receipt)


def isolate(context: OperationContext, options: ScopeOptions) -> RewrapResult:
    """Give an asset or a workspace a root key of its own."""
    ring = _ring(context, options)
    care = _care(context, ring)
    done = care.isolate(
        _subject(context, ring, options), key_id=options.key_id or None, progress=_progress(context, "rewrap")
    )
    return _rewrapped([done.key], done.rotated, done.receipt)


def erase(context: OperationContext, options: ScopeOptions) -> EraseResult:
    """Destroy the root keys of an asset or a workspace; with `dry_run`, say which."""
    ring = _ring(context, options)
    care, subject = _care(context, ring), _subject(context, ring, options)
    if options.dry_run:
        keys, versions = care.check_erasable(subject)
        live = tuple(KeyFate(provider=key.provider, key_id=key.key_id) for key in keys if not key.erased)
        return EraseResult(what=subject.what, keys=live, versions=versions)
    receipt = care.erase(subject)
    return EraseResult(
        what=subject.what,
        keys=receipt.keys,
        versions=receipt.versions,
        receipt=receipt.receipt,
        created=receipt.created,
    )


def destroy(context: OperationContext, options: DestroyOptions) -> EraseResult:
    """Destroy one root key that nothing on the store is under."""
    ring = _ring(context, options)
    key = next((key for key in ring.root_keys if key.key_id == options.key_id), None)
    if key is None:
        raise NotFoundError(f"The key ring knows no root key {options.key_id!r}; see `lightmill keys list`")
    receipt = _care(context, ring).destroy_key(key)
    return EraseResult(
        what=f"root key {key.key_id}", keys=receipt.keys, versions=0, receipt=receipt.receipt, created=receipt.created
    )


def rekey(context: OperationContext, options: RekeyOptions) -> RekeyResult:
    """Publish a version's content again under new keys."""
    ring, settings = _ring(context, options), context.settings
    store, trail = open_store(settings.store_url), _trail(ring)
    with _catalog(context) as catalog:
        registry = Registry(store, ring, settings.workspace, read_store_id(store), catalog)
        source = registry.resolve(options.kind, parse_reference(options.reference))
        made = rekey_version(registry, source, reseal_parquet, _progress(context, "seal again", "blobs"))
        blobs = len(registry.open(made.id).manifest.blobs)
    receipt = trail.append(
        KeyAction.REKEY,
        scope=asset_scope(settings.workspace, made.mid),
        what=f"{options.kind} {source} as {made.id}",
        versions=1,
    )
    return RekeyResult(
        source=str(source), version=str(made.id), digest=made.id.digest, blobs=blobs, receipt=receipt.receipt
    )


def receipts(context: OperationContext, options: KeyOptions) -> ReceiptList:
    """Return the audit trail after its whole chain has verified."""
    trail = AuditTrail(_ring(context, options))
    return ReceiptList(path=str(trail.path), receipts=tuple(trail.read()))


def reseal_parquet(version: OpenVersion, file: FileEntry, draft: Draft) -> FileEntry:
    """Decrypt an encrypted Parquet file and store it again under the draft's keys; tagged columns stay apart.

    Which columns share a key is read off the file: each is decrypted alone, and the key that it asks for noted.
    """
    data, keys = version.read_object(file), version.file_subkey(file)
    tags: dict[str, str] = {}
    table = read_encrypted(data, keys, file.path)
    for column in table.schema:
        asked: set[str] = set()

        def subkey(name: str, asked: set[str] = asked) -> bytes:
            asked.add(name)
            return keys(name)

        read_encrypted(data, subkey, file.path, [column.name])
        for name in asked - {DATA_KEY, FOOTER_KEY}:
            tags[column.name] = tags[f"{column.name}.list.element"] = name
    sealed = write_encrypted(table, draft.subkey, tags)
    digest, size = draft.put_object(sealed)
    named = {"object": digest, "sha256": digest, "blake3": blake3(sealed).hexdigest(), "size": size}
    return file.model_copy(update={**named, "lender": None})


def _ring(context: OperationContext, options: KeyOptions) -> KeyRing:
    return KeyRing.open(context.settings.keyring_path, _passphrase(options.passphrase))


def _trail(ring: KeyRing) -> AuditTrail:
    """The trail, verified before anything changes: nothing is added to one that was tampered with."""
    trail = AuditTrail(ring)
    trail.read()
    return trail


def _passphrase(text: SecretStr | None) -> Passphrase | None:
    return Passphrase(text.get_secret_value()) if text else None


def _care(context: OperationContext, ring: KeyRing) -> KeyCare:
    store = open_store(context.settings.store_url)
    return KeyCare(store, ring, read_store_id(store))


@contextmanager
def _catalog(context: OperationContext) -> Iterator[Catalog | None]:
    """The catalog, or None where there is none yet; what it then lacks, `heal` adds."""
    url = context.settings.catalog_url
    file = url.removeprefix("sqlite:///")
    if file != url and not Path(file).is_file():
        yield None
        return
    with Catalog.open(url) as catalog:
        yield catalog


def _scope_name(scope: str, catalog: Catalog | None) -> str:
    """Return a scope as people call it, with the asset's name if the catalog knows it."""
    mid = scope.rpartition("/")[2]
    if catalog and scope.startswith("asset:"):
        with suppress(LightmillError):
            found = catalog.versions.named(mid)
            if found:
                return f"{found[0]} {found[1]}"
    return describe(scope)


def _subject(context: OperationContext, ring: KeyRing, options: ScopeOptions) -> Subject:
    if options.workspace and not options.kind and not options.name:
        ring.workspace_name_key(options.workspace)
        workspace = options.workspace
        return Subject(scope=workspace_scope(workspace), what=f"workspace {workspace}", workspace=workspace)
    if options.workspace or options.kind is None or not options.name:
        raise RequestError("Name an asset by kind and name, such as `model fraud`, or a workspace; one of the two")
    workspace = context.settings.workspace
    mid = ring.asset_id(workspace, options.kind, check_name(options.name, options.kind))
    what = f"{options.kind} {options.name}"
    return Subject(scope=asset_scope(workspace, mid), what=what, mid=mid, workspace=workspace)


def _service(options: UseOptions) -> AwsKmsSettings | VaultTransitSettings:
    try:
        if options.provider == "aws-kms":
            region = options.region or _region_of(options.key_id)
            return AwsKmsSettings(region=region, endpoint=options.endpoint)
        if options.provider == "vault-transit":
            return VaultTransitSettings(
                url=options.url.rstrip("/"),
                mount=options.mount,
                namespace=options.namespace,
                token_file=str(Path(options.token_file).expanduser().absolute()) if options.token_file else "",
                ca_file=options.ca_file,
            )
    except ValueError as exc:
        raise RequestError(f"{options.provider} lacks an option or has a wrong one: {_first(exc)}") from exc
    raise RequestError(f"{options.provider!r} is no key service; choose local, aws-kms or vault-transit")


def _region_of(key_id: str) -> str:
    """Return the region in the ARN of a key; "" when it is none, which the settings refuse."""
    parts = key_id.split(":")
    return parts[3] if len(parts) > 4 and parts[0] == "arn" else ""


def _first(exc: ValueError) -> str:
    lines = [line.strip() for line in str(exc).splitlines()]
    return ": ".join(lines[1:3]).partition(" [type=")[0]


def _state(ring: KeyRing, receipt: Receipt) -> RingState:
    return RingState(
        path=str(ring.path),
        protection=ring.protection,
        provider=ring.provider.uri,
        key_id=ring.provider.key_id,
        receipt=receipt.receipt,
    )


def _rewrapped(keys: list[RootKey], rotated: Rotated, receipt: Receipt) -> RewrapResult:
    return RewrapResult(
        keys=tuple(KeyFate(provider=key.provider, key_id=key.key_id) for key in keys),
        rewrapped=rotated.rewrapped,
        unchanged=rotated.current,
        erased=rotated.erased,
        problems=rotated.problems,
        receipt=receipt.receipt,
    )


def _progress(context: OperationContext, phase: str, unit: str = "versions") -> Callable[[int, int], None]:
    return lambda done, total: _report(context, phase, done, total, unit)


def _report(context: OperationContext, phase: str, done: int, total: int, unit: str) -> None:
    context.report(Progress(phase=phase, done=done, total=total, unit=unit))
