"""The sums behind a profile as JSON, so that a version that is appended to can be profiled with what comes.

Only the classes named here are made; arrays and tables are base64 of their bytes and of an Arrow stream.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from typing import Any

import numpy as np
import pyarrow as pa

from lightmill.datasets.profile_columns import ColumnPart
from lightmill.datasets.profiling import ProfilePart
from lightmill.datasets.sketches import Counts, Distinct, Numbers, Pairs, Sample
from lightmill.errors import IntegrityError

PROFILE_STATE_FILE = "profile-sums.json"
_KINDS = {kind.__name__: kind for kind in (ProfilePart, ColumnPart, Numbers, Distinct, Counts, Sample, Pairs)}


def dump_part(part: ProfilePart) -> bytes:
    """Return the sums as JSON."""
    return json.dumps(_plain(part)).encode()


def load_part(data: bytes) -> ProfilePart:
    """Return the sums again.

    Raises:
        IntegrityError: The bytes are no sums of a profile.
    """
    try:
        found = _made(json.loads(data))
    except (ValueError, KeyError, TypeError, pa.ArrowException) as exc:
        raise IntegrityError("The stored sums of a profile are damaged; ingest all files again.") from exc
    if not isinstance(found, ProfilePart):
        raise IntegrityError("The stored sums of a profile are something else; ingest all files again.")
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {"array": value.dtype.str, "shape": list(value.shape), "data": data}
    if isinstance(value, pa.Table):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, value.schema) as stream:
            stream.write_table(value)
        return {"table": base64.b64encode(sink.getvalue()).decode()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"kind": type(value).__name__, "fields": fields}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return {"counts": value} if isinstance(value, dict) else value


def _made(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_made(item) for item in value)
    if not isinstance(value, dict):
        return value
    if "array" in value:
        flat = np.frombuffer(base64.b64decode(value["data"]), dtype=np.dtype(value["array"]))
        return flat.reshape(value["shape"]).copy()
    if "table" in value:
        return pa.ipc.open_stream(base64.b64decode(value["table"])).read_all()
    if "counts" in value:
        return {str(text): int(count) for text, count in value["counts"].items()}
    return _KINDS[value["kind"]](**{name: _made(item) for name, item in value["fields"].items()})
