"""What is secret in a request is in no text that is kept of it, in whatever form it came there."""

from __future__ import annotations

import base64
import json
import re
import urllib.parse
from typing import TYPE_CHECKING, Any

import pytest

from recoverable._aiohttp_parts import parts_of
from recoverable.capsules.hiding import HIDDEN, UNSEARCHED
from recoverable.capsules.hiding import Hiding as HidingOf

if TYPE_CHECKING:
    from collections.abc import Iterable


def Hiding(names: Iterable[str]) -> HidingOf:  # noqa: N802 -- the class, for a request of aiohttp
    """Return the secrets of a request of aiohttp."""
    return HidingOf(names, parts_of)


SECRET = 'p&ss "wörd"/1'


def test_a_field_of_the_query_is_hidden_as_it_was_written() -> None:
    """A secret of a query is replaced there, and taken out of texts both as it stood in the URL and as it is read."""
    hiding = Hiding(["Password"])
    url = hiding.url(f"/login?user=ann&password={urllib.parse.quote_plus(SECRET)}&x=1#end")
    assert url == f"/login?user=ann&password={HIDDEN}&x=1#end"
    for text in (
        SECRET,
        urllib.parse.quote(SECRET, safe=""),
        urllib.parse.quote_plus(SECRET),
        repr(SECRET),
        json.dumps(SECRET),
    ):
        assert "rd" not in hiding.text(f"could not log in with {text}"), text
    assert list(hiding.found) == ["query password"]


@pytest.mark.parametrize(
    ("header", "value", "secrets"),
    [
        ("Authorization", "Bearer abcdef123", ["abcdef123"]),
        ("AUTHORIZATION", "Basic " + base64.b64encode(b"ann:hunter2").decode(), ["hunter2", "YW5uOmh1bnRlcjI"]),
        ("Cookie", 'session="s3ss10n"; theme=dark', ["s3ss10n"]),
        ("Proxy-Authorization", 'Digest username="ann", response="9a8b7c"', ["9a8b7c"]),
        ("X-Api-Key", "k-42-k", ["k-42-k", base64.b64encode(b"k-42-k").decode()]),
    ],
)
def test_headers_are_hidden_with_what_is_in_them(header: str, value: str, secrets: list[str]) -> None:
    """The header is kept without its value, and no part of the value that is secret is left in a text."""
    hiding = Hiding(["x-api-key"])
    assert hiding.headers([(header, value), ("Accept", "*/*")]) == [(header, HIDDEN), ("Accept", "*/*")]
    for secret in secrets:
        assert hiding.text(f"bad token: {secret}!") == f"bad token: {HIDDEN}!"
        assert hiding.text(f"bad token: {secret.upper()}!") == f"bad token: {HIDDEN}!"


@pytest.mark.parametrize(
    ("header", "value", "text"),
    [
        ("Authorization", "Basic " + base64.b64encode("ann:pässwört".encode()).decode(), "no pÃ¤sswÃ¶rt"),
        ("Cookie", "session=s%3Aabc.def", "no session s:abc.def"),
        ("X-Api-Key", "abc/def+ghi", r'{"key": "abc\/def+ghi"}'),
        ("X-Api-Key", "müller@example.com", "/u/m%C3%BCller@example.com"),
    ],
)
def test_what_others_make_of_a_secret_is_hidden(header: str, value: str, text: str) -> None:
    """A password in the wrong encoding, a decoded cookie, an escaped slash, a path as other libraries quote it."""
    hiding = Hiding(["x-api-key"])
    hiding.headers([(header, value)])
    assert HIDDEN in hiding.text(text), hiding.text(text)


@pytest.mark.parametrize(
    "part",
    [
        b"Content-Disposition: form-data; name*=utf-8''card\r\n\r\n4111SECRET\r\n",
        b'Content-Type: text/plain; name=x\r\nContent-Disposition: form-data; name="card"\r\n\r\n4111SECRET\r\n',
        b'Content-Disposition: form-data; name="x"\r\nContent-Type: application/json\r\n\r\n{"card": "4111SECRET"}\r\n',
    ],
)
def test_parts_of_a_multipart_body_are_searched(part: bytes) -> None:
    """However their name is written, and where it stands; and JSON in one as JSON."""
    body = b"--b\r\n" + part + b"--b--\r\n"
    found = Hiding(["card"]).body(body, "multipart/form-data; boundary=b", whole=True)
    assert found is not None
    assert (b"SECRET" in found, HIDDEN.encode() in found) == (False, True)


@pytest.mark.parametrize(
    "disposition",
    [
        'form-data; filename="my name=ann.txt"; name="password"',
        r'form-data; filename="name=\"x"; name="password"',
        'form-data; filename="x; name=y"; name="password"',
        'form-data; name*0="pass"; name*1="word"',
        'form-data;\r\n name="password"',
        "form-data; name*=utf-8''pass%77ord",
        'form-data; name = "password"',
    ],
)
def test_a_part_has_the_name_that_aiohttp_gives_it(disposition: str) -> None:
    """However it is written; a body that this aiohttp does not read is left out."""
    body = f"--xx\r\nContent-Disposition: {disposition}\r\n\r\nhunter2\r\n--xx--\r\n".encode()
    hiding = Hiding(["password"])
    cleaned = hiding.body(body, "multipart/form-data; boundary=xx", whole=True)
    assert (cleaned is None) == hiding.unsearched
    assert cleaned is not None or "\r\n" in disposition
    assert b"hunter2" not in (cleaned or b"")


@pytest.mark.parametrize(
    ("header", "value", "secrets"),
    [
        ("Authorization", "Bearer\tabcdefghij", ["abcdefghij"]),
        ("Authorization", "Bearer\xa0abcdefghij", ["abcdefghij"]),
        ("Authorization", "Bearer abc", ["abc"]),
        ("Authorization", "Custom key abcdefghij", ["abcdefghij"]),
        ("Authorization", "Token abcdefghij, xyz123456", ["abcdefghij", "xyz123456"]),
        ("Authorization", 'Hawk id="one";mac="abc\\"def"', ['abc"def']),
        ("Authorization", "AWS AKID12:abcdefgh=", ["AKID12", "abcdefgh"]),
        ("Authorization", "Bearer:abcdefghij", ["abcdefghij"]),
        ("Authorization", "Basic " + base64.b64encode(b"sk_live_abc:").decode(), ["sk_live_abc"]),
        ("Authorization", "basic\t" + base64.urlsafe_b64encode(b"sk_live_\xff\xfe:x").decode(), ["sk_live_\xff\xfe"]),
        ("Cookie", "sid=commasecret1, b=other2secret", ["commasecret1", "other2secret"]),
        ("Cookie", "sid=commasecret1 b=other2secret", ["commasecret1", "other2secret"]),
        ("Cookie", 'sid="ab\\073cdefgh"; y=1', ["ab;cdefgh"]),
        ("Cookie", 'sid="abc;defgh"; y=1', ["abc;defgh"]),
        ("Cookie", 'sid="p\\344sswort"', ["p\xe4sswort"]),
    ],
)
def test_headers_are_hidden_however_they_are_taken_to_pieces(header: str, value: str, secrets: list[str]) -> None:
    """Whatever separates their words and values, a program may have split there."""
    hiding = Hiding([])
    hiding.headers([(header, value)])
    for secret in secrets:
        assert hiding.text(f"who is <{secret}>?") == f"who is <{HIDDEN}>?"


def _part(head: str, content: bytes) -> bytes:
    return f"--BB\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + content + b"\r\n--BB--\r\n"


_FORM, _PARTS = "application/x-www-form-urlencoded", "multipart/form-data; boundary=BB"


@pytest.mark.parametrize(
    ("body", "content_type", "secret"),
    [
        (
            _part('name="pin"\r\nContent-Transfer-Encoding: base64', base64.b64encode(b"multipin99")),
            _PARTS,
            "multipin99",
        ),
        (_part('name="pin"\r\nContent-Transfer-Encoding: quoted-printable', b"multi=70in99"), _PARTS, "multipin99"),
        (_part('name="pin"\r\nContent-Type: text/plain; charset=latin-1', b"p\xfcn99"), _PARTS, "p\xfcn99"),
        (_part('name="x"', b'{"pin": "multipin99"}'), _PARTS, "multipin99"),
        (b"pin=f%F6rmpin99&x=1", f"{_FORM}; charset=latin-1", "f\xf6rmpin99"),
        (b"x=1&pin=f\xf6rmpin99", f"{_FORM}; charset=latin-1", "f\xf6rmpin99"),
        ("x=1&pin=formpin99".encode("utf-16-le"), f"{_FORM}; charset=utf-16-le", "formpin99"),
        (b"x=1&pin=formpin99\r\n", _FORM, "formpin99"),
        (b"pin=formpin99", "", "formpin99"),
        (b'x={"pin":+"formpin99"}', _FORM, "formpin99"),
        (b'{"pin": "jsonpin99"}', _FORM, "jsonpin99"),  # what curl sends
        (b'{"p+AGk-n": "jsonpin99"}', "application/json; charset=utf-7", "jsonpin99"),
        (b'{"pin": "j\xf6sonpin"}', "application/json; charset=latin-1", "j\xf6sonpin"),
        (rb'{"pin": "\u006asonpin99"}', "application/json", r"\u006asonpin99"),
        (b'{"pin": "a\\"b\\u00e9cde"}', "application/json", repr(rb"a\"b\u00e9cde")[2:-1]),
        (rb'"{\"pin\": \"jsonpin99\"}"', "application/json", "jsonpin99"),
    ],
)
def test_a_field_has_the_value_that_aiohttp_gives_it(body: bytes, content_type: str, secret: str) -> None:
    """In whatever charset and encoding it has come, and as it was written."""
    hiding = Hiding(["pin"])
    cleaned = hiding.body(body, content_type, whole=True)
    assert not hiding.unsearched
    assert hiding.text(f"<{secret}>") == f"<{HIDDEN}>"
    raw = hiding.bytes(cleaned or b"")
    for mark in b"pin99", b"cGluOTk", b"=70in99", b"rmpin99", b"n99", b"sonpin":
        assert mark not in raw.replace(b"\0", b"")


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"pin": "jsonpin99",}', "application/json"),
        (b'{"pin": "jsonpin99"}\n{"pin": "jsonpin98"}', "application/x-ndjson"),
        (b'{"pin": "\xf6"}', ""),
        (b'{"pin": "\xf6"}'.replace(b" ", b"\xa0"), _FORM),
        ('{"pin": "jsonpin99",}'.encode("utf-16"), ""),
        (_part('name="x"\r\nContent-Type: application/json', b'{"pin": '), _PARTS),
        (
            _part(
                'name="x"\r\nContent-Type: multipart/mixed; boundary=CC',
                b'--CC\r\nContent-Disposition: form-data; name="pin"\r\n\r\nmultipin99\r\n--CC--\r\n',
            ),
            _PARTS,
        ),
        (_part('name="x"\r\nContent-Transfer-Encoding: other', b"x"), _PARTS),
        (_part('name="x"', b"x"), "multipart/form-data"),
        (b'--BB\nContent-Disposition: form-data; name="pin"\n\nmultipin99\n--BB--\n', _PARTS),
        (b'{"pin": "multipin99"}', _PARTS),
    ],
)
def test_what_the_program_says_of_a_body_that_can_not_be_searched_is_left_out(body: bytes, content_type: str) -> None:
    """It may quote a secret that nobody knows."""
    hiding = Hiding(["pin"])
    cleaned = hiding.body(body, content_type, whole=True)
    assert b"pin99" not in (cleaned or b"")
    assert hiding.unsearched
    assert hiding.said("no multipin99") == hiding.made(["multipin99"]) == UNSEARCHED


def test_a_field_in_another_one_has_its_own_name() -> None:
    """As frameworks write them in queries and forms."""
    hiding = Hiding(["card"])
    assert (
        hiding.url("/?user[card]=4111222&user.card=4111333&cards=1")
        == f"/?user[card]={HIDDEN}&user.card={HIDDEN}&cards=1"
    )
    assert hiding.text("no 4111222, 4111333") == f"no {HIDDEN}, {HIDDEN}"


@pytest.mark.parametrize("value", ["Bearer g\u00e4heim", "Bearer g\u00c3\u00a4heim", "Bearer g\udce4heim"])
def test_a_header_is_hidden_however_it_is_decoded(value: str) -> None:
    """By UTF-8, as aiohttp does, or by Latin-1, as frameworks of ASGI do."""
    hiding = Hiding([])
    hiding.headers([("Authorization", value)])
    assert hiding.text(f"<{value.removeprefix('Bearer ')}>") == f"<{HIDDEN}>"
    if "\u00c3" in value:
        assert hiding.text("<g\u00e4heim>") == f"<{HIDDEN}>"
    elif "\u00e4" in value:
        assert hiding.text("<g\u00c3\u00a4heim>") == f"<{HIDDEN}>"
    else:
        assert hiding.text("<g\u00e4heim>") == f"<{HIDDEN}>"


def test_small_leaks() -> None:
    """Half a secret at the end of a message, a number as it was written, a value of Digest without quotes, a mark before JSON."""
    hiding = Hiding(["pin"])
    hiding.headers([("Authorization", "Digest username=ann, response=9a8b7c6d")])
    assert hiding.text("9a8b7c6d") == HIDDEN
    assert hiding.beginning("it was 9a8b7c6d, 9a8b", cut=True) == f"it was {HIDDEN}, "
    assert hiding.body(b'{"pin": 4.1e17}', "application/json", whole=True) == b'{"pin": "[hidden]"}'
    assert hiding.text("4.1e17, 4.1e+17") == f"{HIDDEN}, {HIDDEN}"
    assert hiding.body(b'\xef\xbb\xbf{"pin": 1', "text/plain", whole=True) is None
    assert hiding.body(b'{"n": 4.10}', "application/json", whole=True) == b'{"n": 4.10}'


def test_half_a_pair_is_no_reason_to_keep_nothing() -> None:
    """JSON may have one, alone."""
    hiding = Hiding(["card"])
    assert hiding.body(b'{"card": "\\ud800"}', "application/json", whole=True) == b'{"card": "[hidden]"}'
    assert hiding.text("no \ud800!") == f"no {HIDDEN}!"


def test_as_many_secrets_as_a_body_can_have_are_taken_out_one_by_one() -> None:
    """Without a pattern of all of them, which would hold up the process for seconds."""
    secrets = [f"secret-{i:05}" for i in range(1900)]
    hiding = Hiding(["card"])
    body = hiding.body(json.dumps([{"card": each} for each in secrets]).encode(), "application/json", whole=True)
    assert body is not None
    longest = 0
    real = re.compile

    def measured(pattern: str, *flags: int) -> re.Pattern[str]:
        nonlocal longest
        longest = max(longest, len(pattern))
        return real(pattern, *flags)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recoverable.capsules.hiding.re.compile", measured)
        assert hiding.text(f"card {secrets[7]}, {body.decode()}").count(HIDDEN) == 1901
    assert longest < 100


def test_short_secrets_are_hidden_where_they_stand_alone() -> None:
    """A PIN of three digits is taken out as a word and as a number, and leaves other texts as they are."""
    hiding = Hiding(["pin"])
    assert json.loads(hiding.body(b'{"pin": 123, "sum": 5123}', "application/json", whole=True) or b"") == {
        "pin": HIDDEN,
        "sum": 5123,
    }
    assert hiding.text("pin 123 is wrong, 5123 is not") == f"pin {HIDDEN} is wrong, 5123 is not"
    assert hiding.data([123, "123", 5123, True]) == [HIDDEN, HIDDEN, 5123, True]


def test_what_is_too_short_to_be_a_secret_of_a_cookie_damages_no_body() -> None:
    """A counter or a theme in a cookie is in bodies as well, as something else; the header is left out all the same."""
    hiding = Hiding([])
    assert hiding.headers([("Cookie", "seen=1; theme=dark; on=true; id=abcdef")]) == [("Cookie", HIDDEN)]
    body = b'{"amount": 1, "colour": "dark", "gift": true}'
    assert hiding.bytes(body) == body
    assert hiding.text("abcdef is expired") == f"{HIDDEN} is expired"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"a": [{"Password": "hunter2"}]}', "application/json"),
        (b'{"a": {"password": {"old": ["hunter2"]}}}', "text/plain"),
        (b'{"x": {"password": "hunter2"}, "x": 1}', "application/json"),  # of two of one name, the last one counts
        (b'{"password": "hunter2", "password": "other"}', "application/json"),
        (rb'{"p\u0061ssword": "hunter2"}', "application/json"),
        ('{"password": "hunter2"}'.encode("utf-16"), "application/json; charset=utf-16"),
        (b"user=ann&passwor%64=hunter2", "application/x-www-form-urlencoded"),
        (
            b'--xx\r\nContent-Disposition: form-data; name="password"\r\n\r\nhunter2\r\n--xx--\r\n',
            "multipart/form-data; boundary=xx",
        ),
        (
            b"--xx\r\nContent-Disposition: form-data; name=password\r\n\r\nhunter2\r\n--xx--\r\n",
            'multipart/form-data; boundary="xx"',
        ),
    ],
)
def test_fields_of_a_body_are_hidden(body: bytes, content_type: str) -> None:
    """A secret field is replaced in JSON at any depth, in forms and in multipart, and the rest is still what it was."""
    hiding = Hiding(["PASSWORD"])
    cleaned = hiding.body(body, content_type, whole=True)
    assert cleaned is not None
    cleaned = hiding.bytes(cleaned)
    assert b"hunter2" not in cleaned.replace(b"\0", b"")
    if content_type.startswith(("application/x", "multipart")):
        assert HIDDEN.encode() in cleaned.replace(b"%5B", b"[").replace(b"%5D", b"]")
    else:
        json.loads(cleaned)
    assert hiding.text("wrong: hunter2") == f"wrong: {HIDDEN}"


@pytest.mark.parametrize(
    ("body", "content_type", "whole"),
    [
        (b'{"password": "hunt', "application/json", False),
        (b'{"password": "hunter2"', "application/json", True),
        (b'[{"password": "hunt', "", False),
        (b"--xx\r\n", "multipart/form-data; boundary=xx", False),
        (b"--xx\r\n", "multipart/form-data", True),
    ],
)
def test_what_can_not_be_searched_is_left_out(body: bytes, content_type: str, whole: bool) -> None:
    """A body that was cut, or is not what it says, may have a secret: without names to hide it is kept, with them not."""
    assert Hiding(["password"]).body(body, content_type, whole=whole) is None
    assert Hiding([]).body(body, content_type, whole=whole) == body


def test_a_body_that_was_cut_in_the_middle_of_a_secret_has_no_half_of_it() -> None:
    """What is known to be secret by another place is not left in part at the end of a body."""
    hiding = Hiding([])
    hiding.headers([("Authorization", "Bearer abcdefgh")])
    assert hiding.bytes(b"the token is abcde", cut=True) == b"the token is "
    assert hiding.bytes(b"the token is abcde") == b"the token is abcde"


def test_what_is_not_secret_stays_as_it_is() -> None:
    """Bodies of other kinds, and all texts where nothing was found, are the same bytes."""
    hiding = Hiding(["password"])
    for body in (b"\x00\xff\x01", b'{"a":  1.0}', b"plain text"):
        assert hiding.bytes(hiding.body(body, "application/octet-stream", whole=True) or b"") == body
    assert hiding.text("the password is wrong") == "the password is wrong"
    assert hiding.found == {}


def test_many_secrets_in_a_long_text_take_no_seconds() -> None:
    """A client may send thousands: then the text goes, at once."""
    values = [f"{i:08d}-secret" for i in range(1500)]
    hiding = Hiding(["p"])
    hiding.fields([{"p": value} for value in values])
    assert hiding.text(" ".join(values) + "." * 100_000) == HIDDEN


def test_deep_secrets_take_no_hours() -> None:
    """Each level has all that is in it once more."""
    deep: Any = [1] * 2000
    for _ in range(500):
        deep = {"p": deep}
    hiding = Hiding(["p"])
    body = json.dumps(deep).encode()
    assert b"1" not in (hiding.body(body, "application/json", whole=True) or b"")
    assert hiding.text("anything") == HIDDEN


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_json_in_a_field_that_is_cut_is_left_out(kind: str) -> None:
    """The program may quote it: that is the crash."""
    text = b'{"pw":"hunter2xyz"'
    body = (
        text
        if "multi" not in kind
        else b'--x\r\nContent-Disposition: form-data; name="payload"\r\n\r\n' + text + b"\r\n--x--\r\n"
    )
    if "multi" not in kind:
        body = b"payload=" + body
    hiding = Hiding(["pw"])
    assert b"hunter2xyz" not in (hiding.body(body, kind, whole=True) or b"")
    assert "hunter2xyz" not in hiding.said(f"not JSON: {text!r}")


def test_a_charset_that_replaces_nothing_keeps_no_capsule_from_being_written() -> None:
    """IDNA refuses to."""
    hiding = Hiding(["pw"])
    hiding.add("hunter2xyz")
    assert b"hunter2xyz" not in hiding.bytes(b"a hunter2xyz b", charset="idna")


def test_a_page_that_led_there_has_secrets_in_its_query() -> None:
    """Browsers send all of its address."""
    hiding = Hiding(["token"])
    kept = hiding.headers([("Referer", "https://shop/x?token=sesame123&a=1"), ("Accept", "a/b;q=0?")])
    assert "sesame123" not in str(kept)
    assert ("Accept", "a/b;q=0?") in kept
    assert "sesame123" not in hiding.text("no sesame123")


def test_a_long_secret_that_is_cut_goes_from_its_beginning() -> None:
    """It may be longer than the text that quotes it."""
    secret = "".join(chr(97 + i * i % 26) for i in range(300_000))
    hiding = Hiding(["p"])
    hiding.add(secret)
    assert hiding.beginning("said: " + secret[:200_000], cut=True) == "said: "
