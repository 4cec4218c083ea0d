"""The door of an endpoint: who is let in, how much, and what it costs to be refused."""

from __future__ import annotations

import tracemalloc
from random import Random

import pytest

from lightmill.access import mint_key, rotate_key
from lightmill.errors import AuthenticationError, ForbiddenError, TooManyRequestsError
from lightmill.records.access import LimitsSpec
from lightmill.records.base import iso_of
from lightmill.records.endpoints import ApiKey
from lightmill.records.keys import AccessSet
from lightmill.serving.gatekeeper import REMEMBERED_S, Gatekeeper
from tests.unit.access.issuing import ISSUER, NOW, token, trusted

RANDOM = Random(3)


class Clock:
    """Both clocks; the wall's is ahead by `NOW`."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def monotonic(self) -> float:
        return self.seconds

    def wall(self) -> float:
        return NOW + self.seconds


def minted(*scopes: str, **fields: object) -> tuple[str, ApiKey]:
    text, key = mint_key("ci", scopes=scopes or ("predict:digits",), random=RANDOM.randbytes)
    return text, key.model_copy(update=fields)


def keeper(
    *keys: ApiKey, clock: Clock | None = None, limits: LimitsSpec | None = None, **options: object
) -> Gatekeeper:
    clock = clock or Clock()
    return Gatekeeper(
        "digits",
        keys,
        limits=limits or LimitsSpec(),
        clock=clock.monotonic,
        wall=clock.wall,
        **options,  # pyright: ignore
    )


def bearer(text: str | bytes) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"h"), (b"authorization", b"Bearer " + (text.encode() if isinstance(text, str) else text))]


@pytest.mark.parametrize(
    "scopes", [("admin",), ("predict:*",), ("predict:digits",), ("predict:other", "predict:digits")]
)
def test_a_key_with_the_scope_is_let_in_by_either_header(scopes: tuple[str, ...]) -> None:
    text, key = minted(*scopes)
    door = keeper(key)
    for _ in range(2):
        for headers in (bearer(text), [(b"x-api-key", text.encode())]):
            caller = door.admit(headers)
            assert (caller.id, caller.name, caller.state.running) == (key.id, "ci", 1)
            door.release(caller)
            assert caller.state.running == 0


@pytest.mark.parametrize("scopes", [("predict:other",), ("metrics",), ("predict:digit",), ("predict:digits2",)])
def test_the_scope_of_another_endpoint_does_not_open_this_one(scopes: tuple[str, ...]) -> None:
    text, key = minted(*scopes)
    door = keeper(key)
    for _ in range(2):
        with pytest.raises(
            ForbiddenError, match=r"'ci' may not call endpoint 'digits'; it needs the scope predict:digits"
        ):
            door.admit(bearer(text))


def test_another_scheme_is_not_remembered_in_place_of_the_key_beside_it() -> None:
    text, key = minted()
    door = keeper(key)
    basic = (b"authorization", b"Basic dTpw")
    for _ in range(2):
        door.release(door.admit([basic, (b"x-api-key", text.encode())]))
    with pytest.raises(AuthenticationError, match="no Bearer key"):
        door.admit([basic])
    with pytest.raises(AuthenticationError):
        door.admit([(b"authorization", text.encode())])
    with pytest.raises(AuthenticationError):
        door.admit([(b"authorization", b"Bearer lm_00000000_" + b"A" * 43), (b"x-api-key", text.encode())])


def test_a_revoked_key_is_refused_from_the_next_set_on_and_who_is_inside_stays_counted() -> None:
    (text, key), (other_text, other) = minted(), minted(limits=LimitsSpec(concurrency=1))
    door = keeper(key, other)
    inside = door.admit(bearer(other_text))
    door.release(door.admit(bearer(text)))
    door.renew(AccessSet(keys=(other,)))
    with pytest.raises(AuthenticationError, match="does not know"):
        door.admit(bearer(text))
    with pytest.raises(TooManyRequestsError):
        door.admit(bearer(other_text))
    door.release(inside)
    door.release(door.admit(bearer(other_text)))


def test_expiry_and_the_end_of_an_overlap_hold_for_remembered_callers() -> None:
    clock = Clock()
    expiring_text, expiring = minted(expires=iso_of(clock.wall() + 10))
    old_text, key = minted()
    new_text, rotated = rotate_key(key, 20, now=clock.wall(), random=RANDOM.randbytes)
    door = keeper(expiring, rotated, clock=clock)
    for text in (expiring_text, old_text, new_text):
        door.release(door.admit(bearer(text)))
    clock.seconds += 10.01
    with pytest.raises(AuthenticationError, match="expired"):
        door.admit(bearer(expiring_text))
    door.release(door.admit(bearer(old_text)))
    clock.seconds += 10
    with pytest.raises(AuthenticationError, match="was rotated"):
        door.admit(bearer(old_text))
    door.release(door.admit(bearer(new_text)))


def test_a_token_is_let_in_remembered_and_refused_when_it_has_expired() -> None:
    clock = Clock()
    door = keeper(clock=clock, issuers=[trusted()])
    sent = token(exp=clock.wall() + 5)
    caller = door.admit(bearer(sent))
    assert (caller.id, caller.name) == (f"jwt:{ISSUER.issuer}:ada", "ada")
    clock.seconds += 5 + ISSUER.leeway_s - 0.1
    door.admit(bearer(sent))
    clock.seconds += 0.2
    with pytest.raises(AuthenticationError, match="has expired"):
        door.admit(bearer(sent))
    with pytest.raises(ForbiddenError, match="The token may not call"):
        door.admit(bearer(token(scope="predict:other", exp=clock.wall() + 5)))
    with pytest.raises(AuthenticationError):
        door.admit([(b"x-api-key", sent)])


def test_the_stricter_of_key_and_endpoint_holds() -> None:
    clock = Clock()
    text, key = minted(limits=LimitsSpec(requests_per_s=1, burst=4))
    door = keeper(key, clock=clock, limits=LimitsSpec(requests_per_s=100, burst=2))
    for _ in range(2):
        door.release(door.admit(bearer(text)))
    with pytest.raises(TooManyRequestsError) as caught:
        door.admit(bearer(text))
    assert caught.value.retry_after_s == pytest.approx(1.0)


def test_a_key_has_one_allowance_however_it_is_sent() -> None:
    text, key = minted(limits=LimitsSpec(concurrency=2))
    door = keeper(key)
    door.admit(bearer(text))
    door.admit([(b"x-api-key", text.encode())])
    for headers in (bearer(text), bearer(" " + text), [(b"x-api-key", text.encode())]):
        with pytest.raises(TooManyRequestsError):
            door.admit(headers)


def test_each_replica_lets_its_share_through() -> None:
    text, key = minted(limits=LimitsSpec(concurrency=4))
    door = keeper(key)
    door.renew(AccessSet(keys=(key,), replicas={"digits": 2, "other": 9}))
    door.admit(bearer(text))
    door.admit(bearer(text))
    with pytest.raises(TooManyRequestsError):
        door.admit(bearer(text))


def test_who_is_known_is_looked_at_again_after_a_while() -> None:
    clock = Clock()
    text, key = minted()
    door = keeper(key, clock=clock)
    first = door.admit(bearer(text))
    assert door.admit(bearer(text)) is first
    clock.seconds += REMEMBERED_S
    again = door.admit(bearer(text))
    assert again is not first and again.state is first.state


def test_ten_thousand_bad_keys_take_no_memory(tally) -> None:
    text, key = minted()
    door = keeper(key, issuers=[trusted()])
    bad = [mint_key("x", random=RANDOM.randbytes)[0] for _ in range(10_000)]
    tokens = [token().replace(b"ey", b"ez", 1) + str(n).encode() for n in range(1000)]
    headers = [bearer(each) for each in (*bad, *tokens)]
    _refuse(door, headers[:10] + headers[-10:])
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    _refuse(door, headers)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 100_000  # nine bytes for each: less than remembering one of them takes
    door.release(door.admit(bearer(text)))
    tally("bad keys and tokens refused", len(headers))


def _refuse(door: Gatekeeper, headers: list[list[tuple[bytes, bytes]]]) -> None:
    for each in headers:
        with pytest.raises(AuthenticationError):
            door.admit(each)


def test_good_headers_in_many_spellings_take_bounded_memory() -> None:
    text, key = minted()
    door = keeper(key)
    for blanks in range(5000):
        door.release(door.admit(bearer(" " * (blanks % 3000) + text)))
    assert len(door._tables.bearers) <= 1024
