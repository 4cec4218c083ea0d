"""What `lightmill` does on a node with the key ring, in a process of its own: one function an operation.

An operation takes its context and one frozen record of options, and returns a record. It runs whether the
platform is up or not, since a restore must.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_type_hints

from pydantic import ValidationError

from lightmill.errors import RequestError
from lightmill.records.base import Record
from lightmill.records.jobs import Progress
from lightmill.settings import Settings

OPERATIONS: dict[str, str] = {
    "datasets.card": "dataset_versions:card",
    "datasets.croissant": "dataset_versions:croissant",
    "datasets.diff": "dataset_versions:diff_versions",
    "datasets.export": "dataset_versions:export",
    "datasets.infer": "datasets:infer",
    "datasets.profile": "datasets:profile",
    "datasets.row": "dataset_versions:row",
    "registry.check": "care:check",
    "registry.gc": "care:collect",
    "registry.repair": "care:repair",
    "registry.rebuild": "care:rebuild",
    "registry.backup": "care:backup",
    "registry.restore": "care:restore",
    "registry.retention": "dataset_versions:retention",
    "keys.destroy": "keys:destroy",
    "keys.erase": "keys:erase",
    "keys.isolate": "keys:isolate",
    "keys.list": "keys:list_keys",
    "keys.protect": "keys:protect",
    "keys.receipts": "keys:receipts",
    "keys.rekey": "keys:rekey",
    "keys.rotate": "keys:rotate",
    "keys.unprotect": "keys:unprotect",
    "keys.use": "keys:use",
    "masking.add": "masking:add",
    "masking.check": "masking:check",
    "masking.list": "masking:list_policies",
    "masking.show": "masking:show",
    "models.export": "exchange:export_model",
    "models.import": "exchange:import_model",
    "models.verify": "exchange:verify_model",
    "serving.simulate": "serving:simulate",
    "training.plan": "training:plan",
}
"""Operation to "module:function" below this package; imported only when it runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationContext:
    """What an operation gets: this deployment, and whom to tell how far it is."""

    settings: Settings
    report: Callable[[Progress], None]


def run_operation(name: str, options: object, context: OperationContext) -> Record:
    """Run one operation.

    Raises:
        RequestError: There is no operation of this name, or it does not take these options.
    """
    target = OPERATIONS.get(name)
    if target is None:
        raise RequestError(f"There is no operation {name!r}; choose one of {', '.join(sorted(OPERATIONS))}.")
    module, _, function = target.partition(":")
    run: Callable[[OperationContext, Any], Record] = getattr(importlib.import_module(f"{__name__}.{module}"), function)
    kind: type[Record] = get_type_hints(run)["options"]
    try:
        parsed = kind.model_validate(options)
    except ValidationError as exc:
        problem = exc.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise RequestError(f"{name}: option {where or 'value'}: {problem['msg']}.") from exc
    return run(context, parsed)
