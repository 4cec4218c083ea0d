"""Each detector on published examples, on broken ones, and on what only looks like one."""

from __future__ import annotations

import random
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.errors import RequestError
from lightmill.masking import DETECTORS, GROUPS, Masker
from lightmill.masking.detector import compact, plain, spoken
from lightmill.masking.registry import detectors_named
from lightmill.masking.scanning import Scanner
from tests.unit.masking.examples import MAKERS, REDACT_ALL, policy

PATTERNS = tuple(DETECTORS[name] for name in GROUPS["all"])
SCANNER = Scanner(PATTERNS)


def found(text: str, said: str = "") -> list[tuple[str, str]]:
    return [(find.detector.name, text[find.start : find.stop]) for find in SCANNER.find(text, said)]


# Examples that the issuing bodies or the standards publish, or that their check digits make valid.
GOOD = [
    ("email", "jane.doe+tag@mail.example.co.uk"),
    ("email", "o'brien@example.com"),
    ("email", '"jane doe"@example.com'),
    ("email", "jane%40example.com"),
    ("email", "jörg@bücher.example"),
    ("email", "admin@[192.0.2.1]"),
    ("phone", "+1 212 555 0123"),
    ("phone", "+12125550123"),
    ("phone", "(212) 555-0123"),
    ("phone", "1-800-555-0199"),
    ("phone", "+44 (0)20 7946 0958"),
    ("phone", "020 7946 0958"),
    ("phone", "030/1234567"),
    ("phone", "0049 30 1234567"),
    ("phone", "06 12 34 56 78"),
    ("phone", "06.12.34.56.78"),
    ("card", "4111111111111111"),
    ("card", "4111 1111 1111 1111"),
    ("card", "3782-822463-10005"),
    ("card", "6304000000000000"),
    ("card", "6200000000000000000"),
    ("iban", "GB29 NWBK 6016 1331 9268 19"),
    ("iban", "DE89370400440532013000"),
    ("iban", "no9386011117947"),
    ("iban", "MT84MALT011000012345MTLCAST001S"),
    ("us_ssn", "078-05-1120"),
    ("uk_nino", "AB 12 34 56 C"),
    ("de_tax_id", "86 095 742 719"),
    ("fr_nir", "2 55 08 14 168 025 38"),
    ("it_fiscal_code", "RSSMRA85T10A562S"),
    ("es_dni", "12345678Z"),
    ("es_dni", "12.345.678-Z"),
    ("es_dni", "X1234567L"),
    ("pl_pesel", "44051401359"),
    ("br_cpf", "111.444.777-35"),
    ("in_aadhaar", "2341 2341 2346"),
    ("ipv4", "203.0.113.77"),
    ("ipv6", "2001:db8::8a2e:370:7334"),
    ("ipv6", "::ffff:203.0.113.77"),
    ("mac", "00:1B:44:11:3A:B7"),
    ("mac", "001b.4411.3ab7"),
    ("api_key", "AKIAIOSFODNN7EXAMPLE"),
    ("api_key", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dBjftJeZ4CVP-mB92K27uhbUJU1p1r"),
    ("api_key", "ghp_0123456789abcdefghijABCDEFGHIJ012345"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text"), GOOD, ids=lambda value: value[:24])
def test_examples_are_found_alone_and_in_a_sentence(name: str, text: str) -> None:
    for before, after in (("", ""), ("see ", "."), ("(", ")"), ("a,", ",b"), ("x ", " 5"), ("\t", "\n"), ("='", "'")):
        finds = found(f"{before}{text}{after}")
        assert [kind for kind, _ in finds] == [name] and text in finds[0][1], (before, finds)


@pytest.mark.parametrize(("said", "name", "text"), [
    ("BSN", "nl_bsn", "111222333"),
    ("burgerservicenummer", "nl_bsn", "1112.22.333"),
    ("ssn", "us_ssn", "078051120"),
    ("Aadhaar no", "in_aadhaar", "234123412346"),
    ("mobile", "phone", "9876543210"),
    ("telefono", "phone", "612 345 678"),
    ("card number", "card", "9792000000000000003"[:16] + "1"),
])  # fmt: skip
def test_weak_spellings_count_where_a_word_says_what_they_are(said: str, name: str, text: str) -> None:
    if name == "card":
        text = "1000000000000008"
    assert found(f"number {text} here") == []
    assert found(f"{said}: {text}") == [(name, text)]
    assert found(f"{text} ({said})") == found(text, said) == [(name, text)]
    bare = Scanner((DETECTORS[name],), bare=frozenset([name]))
    assert len(bare.find(f"number {text} here", "")) == 1


@pytest.mark.parametrize("text", [
    "4111 1111 1111 1112", "4111111111111112", "0000 0000 0000 0000",  # Luhn, or one digit only
    "GB29 NWBK 6016 1331 9268 18", "XX29NWBK60161331926819",  # modulo 97; no such country
    "078-05-0000", "000-12-3456", "666-12-3456", "900-12-3456", "123-00-4567",  # never issued
    "BG 12 34 56 C", "AB 12 34 56 E", "DA123456C",  # prefixes and suffixes that are not given
    "86 095 742 718", "86 095 742 710",
    "RSSMRA85T10A562T",
    "12345678A", "X1234567A",
    "2341 2341 2347", "1341 2341 2346",
    "111.444.777-36", "111.111.111-11",
    "256.1.1.1", "1.2.3", "1.2.3.4.5", "127.0.0.1",
    "10:30:45", "::", "std::vector", "a::b",
    "00:1B:44:11:3A", "00:1B:44:11:3A:B7:99",
    "@home", "user@", "a@b", "@decorator",
])  # fmt: skip
def test_what_is_broken_is_not_found(text: str) -> None:
    assert [find for find in found(f"see {text} end") if find[0] != "phone"] == []


@pytest.mark.parametrize("text", [
    "2024-01-02 10:30:00", "2024-01-02T10:30:00.123456Z", "01.02.2024 10:30", "01/02/2024", "1-2-24", "20240102103000",
    "1700000000", "1700000000000", "1700000000000000000",  # epochs
    "3.14159265358979", "0.4111111111111111", "-2.5e-10", "1,234,567,890.12", "1 234 567 890", "1.234.567.890",
    "550e8400-e29b-41d4-a716-446655440000", "12345678-1234-1234-1234-123456789012",
    "0123456789", "123456789", "1234567890", "12345678901", "100000", "order 4711-0815", "ISBN 978-3-16-148410-0",
    "width 1920x1080", "v1.2.3", "chapter 3.2.1", "pages 100-120", "10-20-30", "Q3/2024", "1:0", "50 % of 200",
    "sha256 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "0x7fffffffffffffff",
    "lat 52.520008, lon 13.404954", "ratio 16:9 at 60 Hz", "the key question", "a secret garden", "pass the salt",
    "tokens per second: 1200", "Boston, MA 02110-1301",
    "5 + 907133923", "password = None", "12 15 18 20 33 45 51 60 72", "C++ std::map<int>", "x[1::2]",
])  # fmt: skip
def test_plain_numbers_dates_and_words_are_left_alone(text: str) -> None:
    assert found(text) == [] and found(f"see {text}, then") == []


def test_few_random_numbers_are_taken_for_identifiers() -> None:
    """Digits alone, with nothing near that says what they are: one in 25 at most is masked, and one in
    twelve where they are as many as a card has."""
    rng = random.Random(3)
    for length in range(4, 20):
        numbers = [str(rng.randrange(10 ** (length - 1), 10**length)) for _ in range(600)]
        taken = sum(bool(found(f"value {number} end")) for number in numbers)
        assert taken <= (600 // 25 if length < 12 else 600 // 12), (length, taken)


@pytest.mark.parametrize(("text", "expected"), [
    ("card 4111 1111 1111 1111 12/27 cvc 123", [("card", "4111 1111 1111 1111")]),
    ("5 4111 1111 1111 1111", [("card", "4111 1111 1111 1111")]),
    ("1234 4111 1111 1111 1111", [("card", "4111 1111 1111 1111")]),
    ("a@b.de,c@d.fr;e@f.it", [("email", "a@b.de"), ("email", "c@d.fr"), ("email", "e@f.it")]),
    ("https://jane:pa55@host/x", [("url_credentials", "jane:pa55")]),
    ("https://tok3n@host/x", [("url_credentials", "tok3n")]),
    ("https://jane:pa55@host.example/x", [("email", "jane:pa55@host.example")]),
    ("password = 'hunter22'", [("api_key", "hunter22")]),
    ("Authorization: Bearer abcdefghijklmnop0123", [("api_key", "abcdefghijklmnop0123")]),
    ("DE89 3704 0044 0532 0130 00 is his", [("iban", "DE89 3704 0044 0532 0130 00")]),
    ("card4111111111111111", [("card", "4111111111111111")]),
    ("IBANDE89370400440532013000", [("iban", "DE89370400440532013000")]),
    ("4111_1111_1111_1111", [("card", "4111_1111_1111_1111")]),
    ("4111/1111/1111/1111", [("card", "4111/1111/1111/1111")]),
    ("Tel. 089 / 1234 567", [("phone", "089 / 1234 567")]),
    ("tel: (089)1234567", [("phone", "(089)1234567")]),
    ("FAX:+49 30 1234567", [("phone", "+49 30 1234567")]),
    ("line\\n4111111111111111", [("card", "4111111111111111")]),
])  # fmt: skip
def test_neighbours_do_not_hide_an_identifier(text: str, expected: list[tuple[str, str]]) -> None:
    assert found(text) == expected


def test_other_dashes_spaces_and_digits_are_seen() -> None:
    assert found("4111\u00a01111\u20091111\u30001111") == [("card", "4111\u00a01111\u20091111\u30001111")]
    assert found("078\u201305\u20111120")[0][0] == "us_ssn"
    assert found("４１１１１１１１１１１１１１１１")[0][0] == "card"
    assert found("jane＠example．com")[0][0] == "email"
    assert found("".join(chr(0x660 + int(digit)) for digit in "4111111111111111"))[0][0] == "card"


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(max_size=80))
def test_finds_are_ordered_spans_of_the_text(text: str) -> None:
    assert len(plain(text)) == len(text)
    end = 0
    for find in SCANNER.find(text, ""):
        assert end <= find.start < find.stop <= len(text)
        end = find.stop


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.sampled_from(sorted(MAKERS)),
    st.integers(0, 10**6),
    st.text(string.ascii_letters + " .,;:!?()\n", max_size=30),
    st.text(string.ascii_letters + " .,;:!?()\n", max_size=30),
)
def test_an_identifier_is_found_between_any_words_and_redaction_is_final(
    kind: str, seed: int, before: str, after: str
) -> None:
    said = {"us_ssn": "ssn", "nl_bsn": "bsn", "in_aadhaar": "aadhaar"}.get(kind, "")
    masker = Masker(REDACT_ALL)
    for spelling in MAKERS[kind](random.Random(seed)):
        masked = masker.text(f"{before} {said} {spelling} {after}")
        assert spelling not in masked
        assert masker.text(masked) == masked


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(st.sampled_from("0123456789 .-/()+:@abcxyzDEIT\"'\\{}[],=_"), max_size=60))
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    masker = Masker(REDACT_ALL)
    once = masker.text(text)
    assert masker.text(once) == once


def test_all_spellings_have_one_normal_form() -> None:
    rng = random.Random(11)
    for kind, maker in MAKERS.items():
        if kind == "phone":
            continue
        for _ in range(20):
            spellings = maker(rng)
            if kind == "ipv6":
                continue
            assert len({DETECTORS[kind].normal(spelling) for spelling in spellings}) == 1, spellings
    assert DETECTORS["ipv6"].normal("2001:DB8:0:0::1") == DETECTORS["ipv6"].normal("2001:db8::1")
    assert DETECTORS["phone"].normal("0049 30 1234567") == DETECTORS["phone"].normal("+49 (30) 123-4567")


def test_a_long_cell_takes_time_in_proportion() -> None:
    """Long texts that begin many identifiers and end none; a quadratic pattern would not come back."""
    for text in ("a" * 100_000, "1 " * 25_000, "a." * 25_000 + "@", "1-" * 15_000, '"' * 15_000, "\\" * 15_000):
        assert SCANNER.find(text, "") == []


def test_an_unknown_detector_is_named_with_those_there_are() -> None:
    with pytest.raises(RequestError, match=r"'emial' is no detector \(use api_key.*or a group: all"):
        Masker(policy({"detectors": ["emial"], "action": "redact"}))
    assert [found.name for found in detectors_named(("ip", "email"), DETECTORS, "x")] == ["email", "ipv6", "ipv4"]


def test_a_detector_of_one_s_own_is_used_by_name() -> None:
    class Ticket(type(DETECTORS["iban"])):
        name = "ticket"
        hint = "T-"

        def find(self, text: str, said: str):
            return (span for span in super().find(text.replace("T-", ""), said))

    with pytest.raises(RequestError, match="'ticket'"):
        Masker(policy({"detectors": ["ticket"], "action": "redact"}))
    masker = Masker(policy({"detectors": ["ticket"], "action": "redact"}), detectors={"ticket": Ticket()})
    assert masker.text("DE89370400440532013000") == "[ticket]"


def test_names_are_read_as_words() -> None:
    assert spoken("customer_phoneNumber") == "customer phone Number"
    assert compact("12.345-Ab c") == "12345ABC"
