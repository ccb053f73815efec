"""What must not be in a capsule: values of headers and fields that are secret, wherever they turn up.

What we want: that somebody who may read capsules does not learn passwords. What does not work: to leave out the header alone. The
same value may be in the URL, in a field of the body, in a message of an exception, as it is or quoted. What does: first find the
secret values by their names, in headers, query, path, form and JSON; then take each of them out of every text, in all the forms
that a program gives values on their way into one.

What can't be read as what it says it is, JSON that was cut for one, can't be searched by names: such a body is left out.
"""

from __future__ import annotations

import base64
import codecs
import html
import json
import re
import urllib.parse
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["ALWAYS", "HIDDEN", "Hiding"]

#: Headers that are never kept.
ALWAYS: Final = ("authorization", "cookie", "set-cookie", "proxy-authorization")
#: What stands in the place of a secret.
HIDDEN: Final = "[hidden]"
_SHORT: Final = 4  # characters: shorter ones are only taken out where they stand alone
_LEAST: Final = 6  # of a cookie's value: shorter ones, "1" or "dark", are no secrets, and are words of bodies as well
_MOST: Final = 2000  # values in one capsule: beyond that, texts that might have one are left out
_QUOTED: Final = re.compile(r'"([^"]+)"')
_BARE: Final = re.compile(r'=\s*([^",\s]+)')
_BOUNDARY: Final = re.compile(r'boundary="?([^";]+)"?', re.IGNORECASE)
_BLANK: Final = re.compile(rb"\r?\n\r?\n")
_PART_IS: Final = re.compile(rb"^content-disposition\s*:((?:.*\r?\n[ \t])*.*)", re.IGNORECASE | re.MULTILINE)
_FOLDED: Final = re.compile(r"\r?\n[ \t]+")
_PART_TYPE: Final = re.compile(rb"^content-type:\s*([^\s;]+)", re.IGNORECASE | re.MULTILINE)
#: What different libraries leave as it is in a URL: Python's, none, browsers', yarl.
_LEFT_IN_URLS: Final = ("/", "", "!~*'()", "!$'()*,;=:@~", "/!$'()*,;=:@~")


class Hiding:
    """The secrets of one request.

    Args:
        names: Of headers and fields that are secret, beside those that always are; case does not count.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._fields = {name.casefold() for name in names}
        self._headers = self._fields | set(ALWAYS)
        self._values: set[str] = set()
        self._forms: dict[str, str] | None = None  # of all values: in lower case, and the pattern for each
        self._lost = False
        self.found: dict[str, None] = {}  # what was hidden, in words

    # -- finding them ------------------------------------------------------------------------------------------------

    def is_field(self, name: object) -> bool:
        """Return whether a field of that name is secret."""
        return isinstance(name, str) and name.casefold() in self._fields

    def add(self, value: Any, where: str = "") -> str:
        """Note a secret; what stands in its place."""
        if where:
            self.found[where] = None
        for text in _leaves(value):
            if text:
                self._values.add(text)
                self._forms = None
        self._lost = self._lost or len(self._values) > _MOST
        return HIDDEN

    def headers(self, headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return those that may be kept, and one without its value for each that may not."""
        kept = []
        for name, value in headers:
            if name.casefold() in self._headers:
                for each in _of_header(name.casefold(), value):
                    self.add(each)
                kept.append((name, self.add(value, f"header {name}")))
            else:
                kept.append((name, value))
        return kept

    def mapping(self, items: dict[str, Any], kind: str) -> dict[str, Any]:
        """Return named values, the secret ones replaced."""
        return {
            key: self.add(value, f"{kind} {key}") if self.is_field(key.rpartition(".")[2]) else self.fields(value)
            for key, value in items.items()
        }

    def url(self, url: str) -> str:
        """Return a URL with the secret parts of its query replaced."""
        head, mark, query = url.partition("?")
        if not mark:
            return url
        query, hash_mark, rest = query.partition("#")
        return f"{head}?{self._form(query, 'query')}{hash_mark}{rest}"

    def _form(self, text: str, kind: str) -> str:
        parts = []
        for part in text.split("&"):
            name, equals, value = part.partition("=")
            plain = urllib.parse.unquote_plus(name)
            if equals and self.is_field(plain):
                self.add(value)
                part = (
                    name
                    + "="
                    + urllib.parse.quote(self.add(urllib.parse.unquote_plus(value), f"{kind} {plain}"), safe="[]")
                )
            parts.append(part)
        return "&".join(parts)

    def fields(self, value: Any) -> Any:
        """Return data with the secret fields of its mappings replaced, at any depth."""
        if isinstance(value, dict):
            return self.mapping(value, "field")
        if isinstance(value, (list, tuple)):
            return [self.fields(each) for each in value]
        return value

    def body(self, body: bytes, content_type: str, *, whole: bool) -> bytes | None:
        """Return a body with its secret fields replaced; None: it may have some, and can't be read.

        Args:
            body: As far as it is known.
            content_type: What the request says that it is.
            whole: Whether it is all of it.
        """
        kind = content_type.partition(";")[0].strip().lower()
        if not self._fields or not body:
            return body
        if kind == "application/x-www-form-urlencoded":
            return self._form(body.decode("utf-8", "surrogateescape"), "field").encode("utf-8", "surrogateescape")
        if kind.startswith("multipart/"):
            return self._multipart(body, content_type) if whole else None
        secret = False

        def noted(
            pairs: list[tuple[str, Any]],
        ) -> dict[str, Any]:  # all of them: of two of one name, the last one counts
            nonlocal secret
            for name, value in pairs:
                if self.is_field(name):
                    secret = True
                    self.add(value, f"field {name}")
            return dict(pairs)

        try:
            data = json.loads(body, object_pairs_hook=noted, parse_float=_Number) if whole else None
        except (ValueError, RecursionError):
            data = None
        if data is not None:
            return _json(self.fields(data)) if secret else body
        return None if "json" in kind or body.removeprefix(codecs.BOM_UTF8).lstrip()[:1] in (b"{", b"[") else body

    def _multipart(self, body: bytes, content_type: str) -> bytes | None:
        found = _BOUNDARY.search(content_type)
        if found is None:
            return None
        mark = b"--" + found[1].encode("utf-8", "surrogateescape")
        parts = body.split(mark)
        for i, part in enumerate(parts):
            blank = _BLANK.search(part)
            if blank is None:
                continue
            head, content = part[: blank.end()], part[blank.end() :]
            kind, text = _PART_TYPE.search(head), _name_of_part(head)
            value = content.removesuffix(b"\n").removesuffix(b"\r")
            if text is None or self.is_field(text):  # None: a server may read it as anything
                self.add(value.decode("utf-8", "replace"), f"field {text or 'without a name'}")
                parts[i] = head + HIDDEN.encode() + content[len(value) :]
            elif kind is not None and not kind[1].lower().startswith(b"multipart/"):
                inner = self.body(value, kind[1].decode("utf-8", "replace"), whole=True)
                parts[i] = head + (HIDDEN.encode() if inner is None else inner) + content[len(value) :]
        return mark.join(parts)

    # -- taking them out -----------------------------------------------------------------------------------------------

    def text(self, text: str) -> str:
        """Return a text without the secrets."""
        if self._lost:
            return HIDDEN
        if not self._values:
            return text
        if self._forms is None:
            forms = {form for value in self._values for form in _forms(value)}
            self._forms = {form.lower(): _matching(form) for form in sorted(forms, key=len, reverse=True)}
        low = text.lower()  # one by one: a pattern of thousands takes seconds, and the GIL with it
        found = [pattern for form, pattern in self._forms.items() if form in low or not form.isascii()]
        return re.compile("|".join(found), re.IGNORECASE).sub(HIDDEN, text) if found else text

    def data(self, value: Any) -> Any:
        """Return JSON data without the secrets in its texts; a number that is one is replaced, too."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self.data(each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.data(each) for each in value]
        if isinstance(value, (int, float)) and not isinstance(value, bool) and str(value) in self._values:
            return HIDDEN
        return value

    def bytes(self, data: bytes, *, cut: bool = False) -> bytes:
        """Return bytes without the secrets; `cut`: they may end in the middle of one."""
        return self.beginning(data.decode("utf-8", "surrogateescape"), cut=cut).encode("utf-8", "surrogateescape")

    def beginning(self, text: str, *, cut: bool) -> str:
        """Return a text without the secrets; `cut`: it may end in the middle of one."""
        text = self.text(text)
        for form in self._forms or () if cut else ():
            end = text[-len(form) :].lower()
            for n in range(min(len(form) - 1, len(end)), 0, -1):
                if end.endswith(form[:n]):
                    text = text[:-n]
                    break
        return text


def _name_of_part(head: bytes) -> str | None:
    """Return the name of a part of a multipart body, as aiohttp reads it; None: it can't be told."""
    from aiohttp.multipart import content_disposition_filename, parse_content_disposition

    told = _PART_IS.search(head)
    if told is None:
        return None
    text = _FOLDED.sub(" ", told[1].decode("utf-8", "surrogateescape")).strip()
    try:
        kind, parameters = parse_content_disposition(text)
        return None if kind is None else content_disposition_filename(parameters, "name")
    except Warning:  # where the program has them raised: it is malformed
        return None


def _json(data: Any) -> bytes:
    try:
        return json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a pair
        return json.dumps(data).encode()


class _Number(float):
    """A number that is written as it stood: 4.1e17."""

    def __new__(cls, text: str) -> _Number:
        made = super().__new__(cls, text)
        made.text = text
        return made

    text: str

    def __str__(self) -> str:
        return self.text


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for each in value.values():
            yield from _leaves(each)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for each in value:
            yield from _leaves(each)
    elif isinstance(value, bytes):
        yield value.decode("utf-8", "surrogateescape")
    elif value is not None and not isinstance(value, bool):
        yield str(value)
        if isinstance(value, _Number):
            yield float.__repr__(value)


def _of_header(name: str, value: str) -> Iterator[str]:
    """Yield what is secret in the value of a header."""
    if name in ("cookie", "set-cookie"):
        for part in value.split(";"):
            value = part.partition("=")[2].strip().strip('"')
            if len(value) >= _LEAST:
                yield value
                yield urllib.parse.unquote(value)
        return
    scheme, blank, rest = value.strip().partition(" ")
    if not blank:
        return
    yield rest.strip()
    yield from _QUOTED.findall(rest)
    yield from (value for value in _BARE.findall(rest) if len(value) >= _LEAST)
    if scheme.lower() == "basic":
        try:
            raw = base64.b64decode(rest.strip() + "==", validate=False)
        except ValueError:
            return
        for plain in raw.decode("utf-8", "replace"), raw.decode("latin-1"):
            yield plain
            yield plain.partition(":")[2]


def _forms(value: str) -> Iterator[str]:
    """Yield what a value looks like in texts."""
    yield value
    try:
        raw = value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a pair, as JSON may have it
        raw = value.encode("utf-8", "surrogatepass")
    for left in _LEFT_IN_URLS:
        yield urllib.parse.quote(raw, safe=left)
    yield urllib.parse.quote_plus(raw)
    yield repr(value)[1:-1]
    yield repr(raw)[2:-1]
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1].replace("/", r"\/")
    yield html.escape(value)
    if len(value) >= _SHORT:
        yield base64.b64encode(raw).decode().rstrip("=")
        yield base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _matching(form: str) -> str:
    escaped = re.escape(form)
    return escaped if len(form) >= _SHORT else rf"(?<!\w){escaped}(?!\w)"
