"""The garbage collector of a replica: what was loaded is looked at no more, and what requests leave less often.

A replica holds some hundred thousand objects of torch, Ray and ours for its whole life. Every full collection would
look at all of them while requests wait. Sixty-four requests at once hold more objects than Python's threshold of 700,
so that their living ones would be moved from generation to generation. Source: Python, `gc.freeze`.
"""

from __future__ import annotations

import gc

YOUNG_OBJECTS = 20_000
"""So many more objects were made than freed when the young ones are looked at: a few megabytes at most."""


def settle() -> None:
    """Collect now, and keep all that lives out of the collector's way; call it once, when everything is loaded."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
