"""What must not be in a capsule: values of headers and fields that are secret, wherever they turn up.

What we want: that somebody who may read capsules does not learn passwords. What does not work: to leave out the header alone. The
same value may be in the URL, in a field of the body, in a message of an exception, as it is or quoted. What does: first find the
secret values by their names, in headers, query, path, form and JSON; then take each of them out of every text, in all the forms
that a program gives values on their way into one.

What can't be read as what it says it is, JSON that was cut for one, can't be searched by names: such a body is left out, and so is
what the program has made of it: messages, arguments, items. Names, charsets and parts are read as frameworks read them.
"""

from __future__ import annotations

import base64
import codecs
import contextlib
import html
import json
import re
import urllib.parse
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from recoverable._kept import Part, PartsOf

__all__ = ["ALWAYS", "HIDDEN", "UNSEARCHED", "Hiding"]

#: Headers that are never kept.
ALWAYS: Final = ("authorization", "cookie", "set-cookie", "proxy-authorization")
#: What stands in the place of a secret.
HIDDEN: Final = "[hidden]"
#: What stands in the place of what may have a secret that is not known.
UNSEARCHED: Final = "[left out: the body could not be searched for secrets]"
_SHORT: Final = 4  # characters: shorter ones are only taken out where they stand alone
_LEAST: Final = 6  # of a cookie's value: shorter ones, "1" or "dark", are no secrets, and are words of bodies as well
_MOST: Final = 2000  # values in one capsule: beyond that, texts that might have one are left out
_MOST_LEAVES: Final = 100_000  # values of secret fields that are noted
_WORK: Final = 5_000_000  # values by characters that are looked for at once: some 50 ms
_LONG: Final = 4096  # characters of the beginning of a value that a text may end with
_LINES: Final = 100  # of a secret, which are secret one by one
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPED: Final = re.compile(r"\\(?:([0-3][0-7][0-7])|(.))", re.DOTALL)
_BETWEEN: Final = re.compile(r"[\s,;]+")
_NESTED: Final = re.compile(r"[\[\].]+")
_BOUNDARY: Final = re.compile(r'boundary\s*=\s*"?([^";]+)"?', re.IGNORECASE)
_CHARSET: Final = re.compile(r'charset\s*=\s*"?([^";\s]+)', re.IGNORECASE)
_BLANK: Final = re.compile(rb"\r?\n\r?\n")
_ASCII: Final = "&=abc"
_URLSAFE: Final = str.maketrans("-_", "+/")
#: What different libraries leave as it is in a URL: Python's, none, browsers', yarl.
_LEFT_IN_URLS: Final = ("/", "", "!~*'()", "!$'()*,;=:@~", "/!$'()*,;=:@~")


class Hiding:
    """The secrets of one request.

    Args:
        names: Of headers and fields that are secret, beside those that always are; case does not count.
        parts_of: Gives the parts of a multipart body as the framework reads them; None: nothing here can.
    """

    def __init__(self, names: Iterable[str], parts_of: PartsOf | None = None) -> None:
        self._parts_of = parts_of
        self._fields = {name.casefold() for name in names}
        self._headers = self._fields | set(ALWAYS)
        self._values: set[str] = set()
        self._forms: dict[str, str] | None = None  # of all values: in lower case, and the pattern for each
        self._lost = self._hit = False
        self._leaves = 0  # of secret fields, nested ones once for each that they are in
        self.unsearched = False  # whether there may be secrets in the body that are not known
        self.found: dict[str, None] = {}  # what was hidden, in words

    # -- finding them ------------------------------------------------------------------------------------------------

    def is_field(self, name: object) -> bool:
        """Return whether a field of that name is secret, `user[card]` and `user.card` as `card` is."""
        if not isinstance(name, str):
            return False
        name = name.casefold()
        return name in self._fields or not self._fields.isdisjoint(_NESTED.split(name))

    @property
    def has_fields(self) -> bool:
        """Whether fields of some names are secret."""
        return bool(self._fields)

    def add(self, value: Any, where: str = "") -> str:
        """Note a secret; what stands in its place."""
        if where:
            self.found[where] = None
        for text in () if self._lost else _leaves(value):
            self._leaves += 1
            if self._leaves > _MOST_LEAVES:
                self._lost = True
                break
            lines = text.splitlines()[:_LINES]
            for each in (text, text.strip(), *(line.strip() for line in lines if len(line) >= _LEAST)):
                if each:
                    self._values.add(each)
                    self._forms = None
        self._lost = self._lost or len(self._values) > _MOST
        return HIDDEN

    def headers(self, headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return those that may be kept, and one without its value for each that may not."""
        kept = []
        for name, value in headers:
            if name.casefold() in self._headers:
                for reading in _readings_of_header(value):
                    self.add([reading, *_of_header(name.casefold(), reading)])
                kept.append((name, self.add(value, f"header {name}")))
            else:
                kept.append((name, self.url(value)))  # Referer, say
        return kept

    def cookies(self, values: Iterable[str]) -> None:
        """Note the values of cookies, as the framework has read them."""
        for value in values:
            if len(value) >= _LEAST:
                self.add(value)

    def mapping(self, items: dict[str, Any], kind: str) -> dict[str, Any]:
        """Return named values, the secret ones replaced."""
        return {
            key: self.add(value, f"{kind} {key}") if self.is_field(key) else self.fields(value)
            for key, value in items.items()
        }

    def url(self, url: str) -> str:
        """Return a URL with the secret parts of its query replaced."""
        head, mark, query = url.partition("?")
        if not mark or not self._fields:
            return url
        query, hash_mark, rest = query.partition("#")
        return f"{head}?{self._form(query, 'query')}{hash_mark}{rest}"

    def _form(self, text: str, kind: str, charset: str = "utf-8") -> str:
        parts = []
        for part in text.split("&"):
            name, equals, value = part.partition("=")
            names = {_unquoted(name, each) for each in ("utf-8", charset)}
            plain = _unquoted(value.rstrip(), charset)
            secret = [each for each in names if self.is_field(each)]
            if equals and value != HIDDEN and (secret or self._is_secret_within(plain)):
                self._hit = True
                self.add([value, plain, _unquoted(value, "utf-8"), _unquoted(value, "latin-1")])
                told = secret[0] if secret else name
                part = name + "=" + urllib.parse.quote(self.add(plain, f"{kind} {told}"), safe="[]")
            parts.append(part)
        return "&".join(parts)

    def fields(self, value: Any) -> Any:
        """Return data with the secret fields of its mappings replaced, at any depth, in texts that are JSON as well."""
        if isinstance(value, dict):
            return self.mapping(value, "field")
        if isinstance(value, (list, tuple)):
            return [self.fields(each) for each in value]
        return self.add(value) if isinstance(value, str) and self._is_secret_within(value) else value

    def _is_secret_within(self, text: str) -> bool:
        """Return whether a text is JSON that has secret fields; they are noted."""
        if not self._fields or text.lstrip()[:1] not in ("{", "[", '"'):
            return False
        before, self._hit = self._hit, False
        try:
            self.fields(self._parsed(text))
        except (ValueError, RecursionError):  # a program may still read some of it, or quote it
            low = text.casefold()
            if "\\" in text or any(name in low for name in self._fields):
                self._hit = self.unsearched = True
        hit, self._hit = self._hit, self._hit or before
        return hit

    def _parsed(self, text: str) -> Any:
        """Return JSON as data; its secret fields are noted, all of them: of two of one name, the last one counts."""

        def noted(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            for name, value in pairs:
                if self.is_field(name):
                    self._hit = True
                    self.add(value, f"field {name}")
            return dict(pairs)

        data = json.loads(text, object_pairs_hook=noted, parse_float=_Number)
        for token in _QUOTED.findall(text) if self._hit else ():  # as it was written: p\u0061ss
            if "\\" in token and json.loads(f'"{token}"') in self._values:
                self.add(token)
        return data

    def body(self, body: bytes, content_type: str, *, whole: bool, charset: str | None = None) -> bytes | None:
        """Return a body with its secret fields replaced; None: it may have some, and can't be read, or not be written again.

        Args:
            body: As far as it is known.
            content_type: What the request says that it is.
            whole: Whether it is all of it.
            charset: Which the framework decodes it by; default: as the type says.
        """
        kind = content_type.partition(";")[0].strip().lower()
        if not self._fields or not body:
            return body
        if kind.partition("/")[0] == "multipart":
            return self._multipart(body, content_type, whole=whole)
        told = _CHARSET.search(content_type)
        charset = charset or (told[1] if told else "")
        readings = _readings(body, charset, whole=whole)
        if whole:
            read, changed = False, []
            for text in readings.values():
                self._hit = False
                try:
                    data = self.fields(self._parsed(text.removeprefix("\ufeff")))
                    read = True
                except (ValueError, RecursionError):
                    continue
                if self._hit:
                    changed.append(_json(data))
            if read:
                return body if not changed else changed[0] if len(set(changed)) == 1 else None
        begun = _readings(body, charset, whole=False).values()
        if "json" in kind or any(text.lstrip("\ufeff \t\r\n").startswith(("{", "[")) for text in begun):
            self.unsearched = True
            return None
        return self._posted(body, kind, readings, whole=whole)

    def _posted(self, body: bytes, kind: str, readings: dict[str, str], *, whole: bool) -> bytes | None:
        """Return the body of a form, or of what may be one."""
        if not whole and kind in ("", "application/x-www-form-urlencoded"):
            self.unsearched = True  # behind what is known
        for charset, text in readings.items():
            self._hit = False
            self._form(text, "field", charset)
            if self._hit and _ASCII.encode(charset, "replace") != _ASCII.encode():
                return None
        text = body.decode("utf-8", "surrogateescape")
        for charset in dict.fromkeys(("utf-8", *readings)):
            text = self._form(text, "field", charset)
        return text.encode("utf-8", "surrogateescape")

    def _multipart(self, body: bytes, content_type: str, *, whole: bool) -> bytes | None:
        boundary = _BOUNDARY.search(content_type)
        try:
            parts = self._parts_of(body, content_type) if whole and self._parts_of is not None else None
        except ValueError:
            parts = None
        if parts is None:
            self.unsearched = True
            return None
        instead = [self._part(part) for part in parts]
        if boundary is None or all(each is None for each in instead):
            return body if boundary is not None else None
        mark = b"--" + boundary[1].strip().encode("utf-8", "surrogateescape")
        pieces = body.split(mark)
        if len(pieces) != len(parts) + 2:  # it is not as plain as that
            return None
        for i, (part, new) in enumerate(zip(parts, instead, strict=True), 1):
            blank = _BLANK.search(pieces[i])
            if blank is None:
                return None
            head, content = pieces[i][: blank.end()], pieces[i][blank.end() :]
            if content.removesuffix(b"\r\n") != part.raw:
                return None
            pieces[i] = pieces[i] if new is None else head + new + content[len(part.raw) :]
        return mark.join(pieces)

    def _part(self, part: Part) -> bytes | None:
        """Return what stands in the place of the content of a part; None: it stays."""
        if part.name is None or self.is_field(part.name):  # None: a server may read it as anything
            for raw in part.raw, part.plain:
                self.add([raw, *_readings(raw, part.charset, whole=True).values(), raw.decode("latin-1")])
            self.add("", f"field {part.name or 'without a name'}")
            return HIDDEN.encode()
        if part.kind and not part.kind.lower().startswith("text/"):
            inner = self.body(part.plain, part.kind, whole=True, charset=part.charset)
            same, new = inner == part.plain, inner if part.plain == part.raw else None
        else:
            texts = _readings(part.plain, part.charset, whole=True).values()
            same, new = True, None
            for text in texts:  # all of them
                same = not self._is_secret_within(text) and same
        return None if same else HIDDEN.encode() if new is None else new

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
        if len(found) * len(text) > _WORK:  # one call, which keeps the GIL
            return HIDDEN
        return re.compile("|".join(found), re.IGNORECASE).sub(HIDDEN, text) if found else text

    def said(self, text: str) -> str:
        """Return a text that the program has made of the request, without the secrets."""
        return UNSEARCHED if self.unsearched else self.text(text)

    def made(self, value: Any) -> Any:
        """Return data that the program has made of the request, without the secrets."""
        if not self.unsearched or value is None or isinstance(value, bool):
            return self.data(value)
        self.found["what the program has made of the body"] = None
        return UNSEARCHED

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

    def bytes(self, data: bytes, *, cut: bool = False, charset: str = "") -> bytes:
        """Return bytes without the secrets; `cut`: they may end in the middle of one."""
        for each in _readings(data, charset, whole=True).keys() - {"utf-8"}:
            text = data.decode(each, "replace")
            clean = self.beginning(text, cut=cut)
            data = data if clean == text else clean.encode(each, "replace")
        return self.beginning(data.decode("utf-8", "surrogateescape"), cut=cut).encode("utf-8", "surrogateescape")

    def beginning(self, text: str, *, cut: bool) -> str:
        """Return a text without the secrets; `cut`: it may end in the middle of one."""
        text = self.text(text)
        for form in self._forms or () if cut else ():
            if len(form) > _LONG and (at := text.lower().find(form[:_LONG])) >= 0:
                text = text[:at]
            end = text[-min(len(form), _LONG) :].lower()
            for n in range(min(len(form) - 1, len(end)), 0, -1):
                if end.endswith(form[:n]):
                    text = text[:-n]
                    break
        return text


def _readings(body: bytes, charset: str, *, whole: bool) -> dict[str, str]:
    """Return what texts a body may be read as, by their charsets: JSON may be UTF-16 without saying so."""
    found: dict[str, str] = {}
    for each in dict.fromkeys(("utf-8", json.detect_encoding(body), charset)):
        try:
            name = codecs.lookup(each).name
            b"%".decode(each, "replace"), "%".encode(each, "replace")  # which some can't do
            strict = "surrogatepass" if name.startswith("utf") and name != "utf-7" else "strict"
            found[name] = body.decode(each, strict if whole else "replace")
        except (LookupError, ValueError):
            continue
    return found


def _unquoted(text: str, charset: str) -> str:
    return urllib.parse.unquote_plus(text, encoding=charset, errors="replace")


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
    """Yield what is secret in the value of a header, however it is taken to pieces."""
    if name in ("cookie", "set-cookie"):
        yield from (each for each in _of_cookies(value) if len(each) >= _LEAST)
        return
    words = value.split(None, 1)
    yield from (part for part in re.split("[:=]", words[0])[1:] if len(part) >= _SHORT) if words else ()
    if len(words) < 2:
        return
    scheme, rest = words[0], words[1].strip()
    least = 1 if name in ALWAYS else _LEAST
    yield rest
    for text in _QUOTED.findall(rest):
        yield text
        yield _unescaped(text)
    for word in _BETWEEN.split(rest):
        bare = word.rstrip("=")
        named, equals, given = bare.partition("=")
        pieces = [given.strip('"')] if equals else [word, bare]
        pieces += [piece for piece in (named if not equals else given).split(":") if len(piece) >= _SHORT]
        yield from (piece for piece in pieces if len(piece) >= least and any(map(str.isalnum, piece)))
    if scheme.lower() == "basic":
        try:
            raw = base64.b64decode(rest.translate(_URLSAFE) + "==", validate=False)
        except ValueError:
            return
        for plain in raw.decode("utf-8", "replace"), raw.decode("latin-1"):
            user, _, password = plain.partition(":")
            yield plain
            yield password
            if not password or len(user) >= _LEAST:  # keys are given as either
                yield user


def _readings_of_header(value: str) -> Iterator[str]:
    """Yield a value, and what it is where it is decoded otherwise: some frameworks do by UTF-8, some by Latin-1."""
    yield value
    if not value.isascii():
        for one, other in ("utf-8", "latin-1"), ("latin-1", "utf-8"):
            with contextlib.suppress(UnicodeError):
                yield value.encode(one, "surrogateescape").decode(other, "surrogateescape")


def _of_cookies(text: str) -> Iterator[str]:
    """Yield the values of cookies; proxies separate them by commas as well, and some programs by blanks."""
    parts = [*text.split(";"), *_BETWEEN.split(text)]
    values = [part.partition("=")[2].strip() for part in parts] + _QUOTED.findall(text)
    for value in values:
        for plain in value, value.strip('"'), _unescaped(value.strip('"')):
            yield plain
            yield urllib.parse.unquote(plain)


def _unescaped(text: str) -> str:
    """Return a quoted text, as cookies and parameters have it, without its escapes."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)) if found[1] else found[2], text)


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
    for ascii_only in True, False:
        text = json.dumps(value, ensure_ascii=ascii_only)[1:-1]
        for each in text, text.replace("/", r"\/"):
            yield each
            yield repr(each)[1:-1]  # JSON that was quoted
            yield repr(each.encode("utf-8", "surrogatepass"))[2:-1]
    yield html.escape(value)
    if len(value) >= _SHORT:
        yield base64.b64encode(raw).decode().rstrip("=")
        yield base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _matching(form: str) -> str:
    escaped = re.escape(form)
    return escaped if len(form) >= _SHORT else rf"(?<!\w){escaped}(?!\w)"
