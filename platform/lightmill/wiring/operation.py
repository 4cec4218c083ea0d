"""`python -m lightmill.wiring.operation NAME`: run one operation of this node; options come as JSON on stdin.

Standard output holds JSON lines: `{"progress": ...}` as it goes, at the end `{"result": ...}` or
`{"error": ..., "type": ...}`. Options do not travel as arguments, since those show in the process list.
"""

from __future__ import annotations

import json
import sys

from lightmill.errors import LightmillError, RequestError
from lightmill.records.jobs import Progress
from lightmill.settings import Settings
from lightmill.telemetry import configure_logging
from lightmill.wiring.operations import OperationContext, run_operation


def main() -> int:
    """Run the operation that the first argument names; the exit code is the error's."""
    configure_logging()
    try:
        if len(sys.argv) != 2:
            raise RequestError("Give the name of one operation; its options come as JSON on standard input.")
        context = OperationContext(settings=Settings.read(), report=_report)
        result = run_operation(sys.argv[1], json.loads(sys.stdin.read() or "{}"), context)
    except ValueError as exc:
        return _fail(RequestError(f"The options are no JSON: {exc}."))
    except LightmillError as exc:
        return _fail(exc)
    _line({"result": result.model_dump(mode="json")})
    return 0


def _fail(exc: LightmillError) -> int:
    _line({"error": exc.message, "type": type(exc).__name__})
    return exc.exit_code


def _report(progress: Progress) -> None:
    _line({"progress": progress.model_dump(mode="json")})


def _line(value: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
