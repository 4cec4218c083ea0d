"""What an endpoint cannot do yet is refused, rather than taken and left undone."""

from __future__ import annotations

import pytest

from lightmill.errors import RequestError
from lightmill.records.balancing import NOT_AT_ENDPOINTS
from lightmill.records.specs import EndpointSpec, parse_spec


@pytest.mark.parametrize("name", NOT_AT_ENDPOINTS)
def test_balancing_that_no_part_does_is_refused_with_what_there_is(name: str) -> None:
    with pytest.raises(RequestError, match=rf"balancing.*'{name}' cannot be done for an endpoint yet; choose hash"):
        parse_spec(EndpointSpec, {"name": "digits", "model": "digits", "balancing": name}, "endpoint.yaml")
