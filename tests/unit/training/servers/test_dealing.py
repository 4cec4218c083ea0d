"""Parameters are dealt over servers by size: each once, and no server much fuller than it must be."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.training.servers.dealing import deal_parameters

Sizes = st.dictionaries(st.text("ab.", min_size=1, max_size=6), st.integers(1, 1000), min_size=1, max_size=20)


@settings(max_examples=40)
@given(Sizes, st.data())
def test_each_parameter_is_held_once_and_every_server_holds_some(sizes: dict[str, int], data: st.DataObject) -> None:
    servers = data.draw(st.integers(1, len(sizes)))
    dealt = deal_parameters(sizes, servers)
    assert sorted(name for names in dealt for name in names) == sorted(sizes)
    assert all(dealt)
    for names in dealt:
        assert list(names) == [name for name in sizes if name in names]


@settings(max_examples=40)
@given(Sizes, st.data())
def test_the_fullest_server_holds_at_most_what_graham_proved(sizes: dict[str, int], data: st.DataObject) -> None:
    servers = data.draw(st.integers(1, len(sizes)))
    fullest = max(sum(sizes[name] for name in names) for names in deal_parameters(sizes, servers))
    assert fullest <= sum(sizes.values()) / servers + max(sizes.values()) * (1 - 1 / servers) + 1e-9


def test_large_ones_go_apart() -> None:
    assert deal_parameters({"a": 4, "b": 10, "c": 5, "d": 1}, 2) == (("b",), ("a", "c", "d"))
