"""Objects that hold secrets and therefore never leave the process that made them."""

from __future__ import annotations

from typing import NoReturn, SupportsIndex


class Confined:
    """Refuses to be pickled or copied, so that no key reaches an object store, a spill file or a log."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            f"{type(self).__name__} holds secret keys and does not pickle; pass the path of the key ring "
            "to the other process and open it there with KeyRing.open(path)"
        )
