"""How a worker reaches the servers of its run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any


class Servers(ABC):
    """One worker's links to all servers. Answers come from several at once.

    Attributes:
        count: How many servers there are.
    """

    count: int

    @abstractmethod
    def begin(self, server: int, method: str, *arguments: Any) -> None:
        """Call a method of `Server`; each server has at most one call of a worker under way.

        Raises:
            UnavailableError: The server is gone; a run goes on from its last checkpoint with new ones.
        """

    @abstractmethod
    def answers(self) -> Iterator[tuple[int, Any]]:
        """Yield the answers to all calls under way as they come, with the server's number. Arrays are read-only.

        Raises:
            UnavailableError: A server is gone.
            LightmillError: What the method raised.
        """

    @abstractmethod
    def close(self) -> None:
        """End this worker's links; whoever made the servers ends them as well."""

    def ask(self, method: str, arguments: Sequence[tuple[Any, ...]] | None = None) -> list[Any]:
        """Call a method of every server at once and return the answers in the order of servers."""
        for server in range(self.count):
            self.begin(server, method, *(arguments[server] if arguments else ()))
        found = dict(self.answers())
        return [found[server] for server in range(self.count)]
