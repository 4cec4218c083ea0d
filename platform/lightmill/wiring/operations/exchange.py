"""Importing, exporting and verifying models: what `lightmill models import`, `export` and `verify` do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from lightmill.errors import RequestError
from lightmill.models.exchange import exporting, importing, verifying
from lightmill.models.exchange.folder import parse_card
from lightmill.models.exchange.signing import export_key, public_key_file
from lightmill.models.exchange.source import TEXT_MAX_BYTES, read_limited
from lightmill.records.assets import ModelCard
from lightmill.records.base import Record
from lightmill.records.references import AssetKind, parse_reference
from lightmill.registry import Registry
from lightmill.wiring.operations import OperationContext
from lightmill.wiring.platform import open_platform


class ImportOptions(Record):
    """What to import: an absolute `path`, as version of model `name`; `card` is the path of a model card."""

    path: str
    name: str
    alias: str | None = None
    card: str | None = None
    convert_pickle: bool = False


class ExportOptions(Record):
    """What to export where; without `sign` the folder carries no signature."""

    reference: str
    folder: str
    format: exporting.ExportFormat = exporting.ExportFormat.HUGGINGFACE
    sign: bool = True


class VerifyOptions(Record):
    """What to verify: a version, or an exported folder by `public_key` (else by this deployment's own)."""

    reference: str | None = None
    folder: str | None = None
    public_key: str | None = None
    sample_percent: float | None = None
    seed: int = 0


class Verification(Record):
    """What was verified: a version or a folder."""

    version: verifying.Verified | None = None
    folder: verifying.VerifiedFolder | None = None


def import_model(context: OperationContext, options: ImportOptions) -> importing.Imported:
    """Publish what lies at a path as a version; see `importing.import_model` for the errors."""
    os.environ["TQDM_DISABLE"] = "1"  # bars of libraries would run into ours
    card = _read_card(Path(options.card)) if options.card else None
    with _registry(context) as registry:
        return importing.import_model(
            registry,
            Path(options.path),
            options.name,
            alias=options.alias,
            card=card,
            convert_pickle=options.convert_pickle,
            report=context.report,
        )


def export_model(context: OperationContext, options: ExportOptions) -> exporting.Exported:
    """Write a version as plain files; see `exporting.export_version` for the errors."""
    with _registry(context) as registry:
        id = registry.resolve(AssetKind.MODEL, parse_reference(options.reference))
        key = export_key(context.settings.keyring_path.parent) if options.sign else None
        return exporting.export_version(
            registry, id, Path(options.folder), options.format, signing_key=key, report=context.report
        )


def verify_model(context: OperationContext, options: VerifyOptions) -> Verification:
    """Read a version again, or compare an exported folder with its signature.

    Raises:
        RequestError: Both or neither are given, or the sample is no percentage.
        IntegrityError: Something is not what was written or signed; the message names it.
    """
    if (options.reference is None) == (options.folder is None):
        raise RequestError("Give either a model's reference or a folder to verify.")
    if options.folder is not None:
        keys = context.settings.keyring_path.parent
        key = Path(options.public_key) if options.public_key else public_key_file(keys)
        return Verification(folder=verifying.verify_export(Path(options.folder), key))
    percent = options.sample_percent
    if percent is not None and not 0 < percent <= 100:
        raise RequestError(f"A sample is a share above 0 % and at most 100 %, not {percent:g} %.")
    with _registry(context) as registry:
        id = registry.resolve(AssetKind.MODEL, parse_reference(options.reference or ""))
        done = verifying.verify_version(registry, id, sample_percent=percent, seed=options.seed, report=context.report)
        return Verification(version=done)


@contextmanager
def _registry(context: OperationContext) -> Iterator[Registry]:
    platform = open_platform(context.settings)
    with platform.catalog:
        yield platform.registry


def _read_card(path: Path) -> ModelCard:
    try:
        found = yaml.safe_load(read_limited(path, TEXT_MAX_BYTES))
    except (yaml.YAMLError, ValueError) as exc:
        raise RequestError(f"{path.name} is not valid YAML: {str(exc)[:200]}.") from exc
    return parse_card(found, path.name)
