"""Preparation steps over Arrow tables, fitted on the training split, applied the same everywhere. NumPy and Arrow only.

A fit is a number of passes (`stages`); in each, every table is measured, sums are added up in any order, and the result
is carried as JSON (`records.fitted`). `Preparation` applies it. docs/preparation.md lists the steps.
"""

from lightmill.models.preparation.applying import Preparation, Resources
from lightmill.models.preparation.duplicates import DuplicateSearch, Signatures, signature
from lightmill.models.preparation.expressions import Expression
from lightmill.models.preparation.fitting import Accumulator, begin, fitted_from_data, settled
from lightmill.models.preparation.packing import Packer
from lightmill.models.preparation.stages import Found, Stage, StageFitter, StageSums, check_order, fit, settle, stages

__all__ = [
    "Accumulator",
    "DuplicateSearch",
    "Expression",
    "Found",
    "Packer",
    "Preparation",
    "Resources",
    "Signatures",
    "Stage",
    "StageFitter",
    "StageSums",
    "begin",
    "check_order",
    "fit",
    "fitted_from_data",
    "settle",
    "settled",
    "signature",
    "stages",
]
