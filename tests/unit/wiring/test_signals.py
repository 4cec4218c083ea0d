"""How an endpoint's replicas are to log and trace, by the settings and the kept policies."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightmill.errors import NotFoundError
from lightmill.records.masking import MaskingPolicy
from lightmill.records.signals import SignalsConfig
from lightmill.records.specs import EndpointSpec
from lightmill.registry import PolicyBook
from lightmill.settings import Settings
from lightmill.wiring.control import signals_of
from tests.unit.registry.world import World


def test_a_policy_is_handed_to_replicas_by_its_name_and_number(tmp_path: Path) -> None:
    world = World(tmp_path)
    book = PolicyBook(world.catalog, world.ring)
    rules = [{"detectors": ["all"], "action": "redact"}]
    book.add(MaskingPolicy.model_validate({"name": "staff", "rules": rules}))
    settings = Settings(home=tmp_path / "home", trace_url="http://localhost:4318/v1/traces", trace_ratio=0.25)
    logging = {"name": "e", "model": "m", "log": {"predictions": {"sample": 0.1, "masking": "staff@1"}}}
    found = signals_of(EndpointSpec.model_validate(logging), settings, book)
    assert found.masking is not None and (found.masking.name, found.masking.version) == ("staff", 1)
    assert (found.trace_url, found.trace_ratio) == (settings.trace_url, 0.25)
    silent = signals_of(EndpointSpec(name="e", model="m"), Settings(home=tmp_path / "home"), book)
    assert silent == SignalsConfig()
    logging["log"] = {"predictions": {"sample": 0.1, "masking": "nobody"}}
    with pytest.raises(NotFoundError, match="'nobody'"):
        signals_of(EndpointSpec.model_validate(logging), settings, book)
