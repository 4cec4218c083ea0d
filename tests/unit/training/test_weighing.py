"""Parts of a step weigh as they must: together they are one mean over the step, whoever computes which rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.training.strategies import Ddp, Setting
from lightmill.training.team import Team
from lightmill.training.weighing import cut, weighed
from tests.teams import Case, same, spec_of, train_together
from tests.unit.training.strategies.cases import labelled, language


@given(st.integers(0, 20), st.integers(1, 9))
def test_a_batch_is_cut_evenly(rows: int, parts: int) -> None:
    batch = (torch.arange(rows), torch.arange(rows) * 2)
    found = cut(batch, parts)
    sizes = [len(part[0]) for part in found]
    assert len(found) == parts and max(sizes) - min(sizes) <= 1
    assert torch.equal(torch.cat([part[0] for part in found]), batch[0])
    assert all(torch.equal(part[1], part[0] * 2) for part in found)


@pytest.mark.parametrize("make", [labelled, language])
@given(parts=st.integers(1, 5), rows=st.integers(1, 20))
@settings(max_examples=10, deadline=None)
def test_parts_of_one_process_are_the_mean_over_the_step(make: Callable[[], Case], parts: int, rows: int) -> None:
    case = CASES[make.__name__]
    strategy = Ddp(Setting(spec=spec_of(case), team=Team.alone(), objective=case.objective, epoch_steps=1))
    batch = tuple(tensor[:rows] for tensor in case.rows)
    found = weighed(strategy, cut(batch, parts), rows)
    counts = [float(torch.as_tensor(case.objective.count(part.batch))) for part in found]
    assert sum(float(part.weight()) for part in found) == pytest.approx(1.0)
    assert [float(part.weight()) for part in found] == pytest.approx([count / sum(counts) for count in counts])


@pytest.mark.slow
@pytest.mark.parametrize("make", [labelled, language])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_workers_with_unlike_shares_step_as_one_with_all(
    make: Callable[[], Case], accumulate: int, tmp_path: Path
) -> None:
    """Eight lanes over three workers: two, three and three; the last step leaves some without rows."""
    more = {"workers": "1..3", "accumulate": accumulate}
    same(train_together(make, 1, tmp_path, **more), train_together(make, 3, tmp_path, **more))


CASES = {"labelled": labelled(), "language": language()}
