"""Which checkpoints stay: a pure decision."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lightmill.records.references import AssetKind, VersionId
from lightmill.records.training import CheckpointSpec
from lightmill.training.keeping import Kept, fallen_out, ranked

LOSSES = st.one_of(st.none(), st.sampled_from([0.5, 0.25, 1.0, 2.0]))


def checkpoints(losses: list[float | None]) -> list[Kept]:
    return [
        Kept(
            id=VersionId(kind=AssetKind.RUN, name="r", seq=seq, digest="aa"),
            epoch=seq,
            step=0 if loss is not None else 5,
            loss=loss,
        )
        for seq, loss in enumerate(losses, 1)
    ]


@given(st.lists(LOSSES, max_size=12), st.integers(1, 4), st.integers(1, 4))
def test_the_best_and_the_last_stay_and_nothing_else(losses: list[float | None], best: int, last: int) -> None:
    known = checkpoints(losses)
    gone = {one.id.seq for one in fallen_out(known, CheckpointSpec(keep_best=best, keep_last=last))}
    order = [seq for _, seq in sorted((loss, seq) for seq, loss in enumerate(losses, 1) if loss is not None)]
    stay = {*order[:best], *range(len(losses), 0, -1)[:last]}
    assert gone == set(range(1, len(losses) + 1)) - stay
    assert [one.id.seq for one in ranked(known)] == order


@given(st.lists(LOSSES, min_size=1, max_size=12), st.integers(1, 3), st.integers(1, 3))
def test_deciding_after_every_checkpoint_keeps_the_same(losses: list[float | None], best: int, last: int) -> None:
    spec = CheckpointSpec(keep_best=best, keep_last=last)
    there: list[Kept] = []
    for one in checkpoints(losses):
        there = [*there, one]
        gone = fallen_out(there, spec)
        there = [kept for kept in there if kept not in gone]
    whole = checkpoints(losses)
    gone = fallen_out(whole, spec)
    assert there == [kept for kept in whole if kept not in gone]
