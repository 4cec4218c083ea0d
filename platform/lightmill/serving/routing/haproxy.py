"""Balancing by HAProxy: what of `balancing` it can do, and the file that tells its wrapper.

HAProxy spreads what comes to an endpoint by HTTP, with one rule for all its backends in the configuration that Ray
writes. The wrapper that the platform runs as HAProxy (`lightmill.launch.haproxy`) adds the rules of this file, one
backend a line: its name, a tab, and directives parted by semicolons.

- `least_loaded` is `leastconn`, as Ray has it, and needs no rule; `round_robin` is `roundrobin`.
- `random` and `power_of_two` are `random(1)` and `random(2)`: HAProxy draws so many servers and takes the least loaded.
- `hash` is `hdr(NAME)` on a consistent ring with `hash-balance-factor`, which is consistent hashing with bounded loads.
  Without the header, requests go round robin. HAProxy 2.8 places servers on the ring by their number in the
  configuration, so that keys move when replicas come or go, more than they must.
- `weighted` and `prefix` it cannot do: servers of one backend weigh the same, and it does not read bodies. They are
  `leastconn` at HAProxy, and hold for what is called by handle.
"""

from __future__ import annotations

import re
from pathlib import Path

from lightmill.records.balancing import BalancingSpec

PROTOCOLS = ("http", "grpc")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def directives(spec: BalancingSpec) -> tuple[str, ...]:
    """Return the lines of a backend; none where Ray's own are right, or HAProxy cannot do it."""
    if spec.name == "round_robin":
        return ("balance roundrobin",)
    if spec.name in ("random", "power_of_two"):
        return (f"balance random({1 if spec.name == 'random' else 2})",)
    if spec.name == "hash":
        factor = max(101, round(spec.bound * 100))
        return (f"balance hdr({spec.header})", "hash-type consistent", f"hash-balance-factor {factor}")
    return ()


def backends(application: str) -> tuple[str, ...]:
    """Return what Ray calls the backends of an application (`HAProxyManager._generate_backend_name`)."""
    return tuple(_UNSAFE.sub("_", f"{name}-{application}".replace("#", "-").replace("/", ".")) for name in PROTOCOLS)


def set_balance(path: Path, application: str, spec: BalancingSpec | None) -> None:
    """Write what HAProxy is to do for an application, or with None nothing more; others' lines stay.

    HAProxy follows the next time that Ray writes its configuration, as it does when replicas change.
    """
    names = backends(application)
    kept = [line for line in _lines(path) if line.partition("\t")[0] not in names]
    rules = ";".join(directives(spec)) if spec else ""
    added = [f"{name}\t{rules}" for name in names] if rules else []
    if not path.parent.is_dir() or _lines(path) == [*kept, *added]:
        return
    new = path.with_suffix(".new")
    new.write_text("".join(line + "\n" for line in [*kept, *added]))
    new.replace(path)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []
