"""Which server holds which parameters."""

from __future__ import annotations

from collections.abc import Mapping

Dealt = tuple[tuple[str, ...], ...]


def deal_parameters(sizes: Mapping[str, int], servers: int) -> Dealt:
    """Return the names that each server holds, in the model's order.

    The largest goes first, each to the server that holds least so far (R. L. Graham, 1969): no server holds more than
    4/3 of what the best division gives its fullest one. A parameter is never cut.

    Args:
        sizes: Parameters by name, at least as many as servers; any unit.
        servers: How many servers there are.
    """
    loads = [0] * servers
    holder: dict[str, int] = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        server = min(range(servers), key=lambda number: (loads[number], number))
        loads[server] += sizes[name]
        holder[name] = server
    return tuple(tuple(name for name in sizes if holder[name] == server) for server in range(servers))
