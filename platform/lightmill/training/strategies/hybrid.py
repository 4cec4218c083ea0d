"""A mesh of data x pipeline x tensor parallel workers, with parameters sharded over the data direction if asked.

D. Narayanan et al., "Efficient large-scale language model training on GPU clusters using Megatron-LM" (2021).
"""

from __future__ import annotations

from lightmill.training.strategies.meshed import Meshed


class Hybrid(Meshed):
    """Stages are cut, then their matrices split, then what is left is sharded or averaged."""

    name = "hybrid"
