"""`python -m lightmill.wiring`: prepare a deployment; prints one JSON line."""

from __future__ import annotations

import json
import sys

from lightmill.errors import LightmillError
from lightmill.settings import Settings
from lightmill.wiring.bootstrap import bootstrap


def main() -> int:
    """Prepare the deployment that the environment describes; the exit code is the error's."""
    try:
        settings = Settings.read()
        bootstrap(settings)
    except LightmillError as exc:
        sys.stdout.write(json.dumps({"error": exc.message, "type": type(exc).__name__}) + "\n")
        return exc.exit_code
    sys.stdout.write(json.dumps({"home": str(settings.home)}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
