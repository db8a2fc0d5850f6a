"""What must not leave a worker with its incident: values that are secret by the name of their variable or their look.

Names are matched without regard to case, ``-`` as ``_``: those of a word that means a secret, and the patterns that are
configured (``fnmatch``: ``*_URL``). Besides them whatever looks like one is taken out of any text: the password of a
URL, a bearer or basic authorization, keys of known form, the value of an option or assignment with such a name.

Invariant: pure; ``MARK`` stands in the place of every value that is taken out, and what is redacted once is the same
redacted again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from watchdogd.incident import Incident

MARK = "(redacted)"
# In a name; each as a word of its own or a part of one.
_WORDS = (
    "TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL", "APIKEY", "PRIVATE", "COOKIE", "SESSION",
    "SIGNATURE", "WEBHOOK", "BEARER", "JWT", "DSN",
)  # fmt: skip
# In a name, only as a word of its own: KEYBOARD, MONKEY, AUTHOR, COMPASS are none.
_WHOLE_WORDS = frozenset(("KEY", "KEYS", "AUTH", "AUTHORIZATION", "PASS", "PGPASS", "PWD", "PW", "PIN", "SAS", "CONN"))
_NOT_SECRET = frozenset(("PWD", "OLDPWD", "XDG_SESSION_ID", "XDG_SESSION_TYPE", "XDG_SESSION_CLASS"))
_LOOKS = (
    re.compile(r"(?<=://)[^/\s@\"']+(?=@)"),  # user and password of a URL
    re.compile(r"(?i)(?<=\bbearer\s)\s*[\w.~+/=-]+|(?<=\bbasic\s)\s*[A-Za-z0-9+/=]{8,}"),
    re.compile(r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}\b"),  # AWS
    re.compile(r"\b(?:gh[pousr]_|github_pat_|glpat-|xox[abprs]-|hf_|nvapi-|sk-|pypi-)[\w-]{16,}"),
    re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"),  # JSON web token
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
)
_NAME = re.compile(r"(?<![\w.-])-*([A-Za-z_][\w.-]*)[\"']?\s*[=:]\s*(?!//)")
_VALUE = re.compile(r"\"[^\"]*\"?|'[^']*'?|[^\s,;&\"']+")
_OPTION = re.compile(r"--?(?P<name>[A-Za-z][\w.-]*)\Z")


class Redaction:
    def __init__(self, patterns: Iterable[str] = ()) -> None:
        """``patterns``: of names, besides those that are known."""
        self._patterns = tuple(_plain(pattern) for pattern in patterns)

    def is_secret(self, name: str) -> bool:
        """Whether what a variable or an option of this name holds is left out."""
        plain = _plain(name)
        if any(fnmatchcase(plain, pattern) for pattern in self._patterns):
            return True
        if plain in _NOT_SECRET:
            return False
        # PRIVATE_KEY, privateKey and PRIVATEKEY1 alike
        words = re.findall(r"[A-Z]+", _plain(re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name)))
        return any(word in plain for word in _WORDS) or not _WHOLE_WORDS.isdisjoint(words)

    def environment(self, variables: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        return tuple((name, MARK if self.is_secret(name) and value else self.text(value)) for name, value in variables)

    def command(self, arguments: Sequence[str]) -> tuple[str, ...]:
        """A command line, also one whose option has its value in the next argument."""
        result: list[str] = []
        is_value = False
        for argument in arguments:
            option = _OPTION.match(argument)
            if is_value and option is None:
                result.append(MARK)
            else:
                result.append(self.text(argument))
            is_value = option is not None and self.is_secret(option["name"])
        return tuple(result)

    def text(self, text: str) -> str:
        """Of a collector, or any other."""
        for look in _LOOKS:
            text = look.sub(MARK, text)
        parts, end = [], 0
        for name in _NAME.finditer(text):
            if name.start() < end or not self.is_secret(name[1]):
                continue
            value = _VALUE.match(text, name.end())
            if value is not None:
                parts += [text[end : name.end()], MARK]
                end = value.end()
        return "".join((*parts, text[end:]))

    def incident(self, incident: Incident) -> Incident:
        """What a document holds of environments and command lines."""
        processes = tuple(replace(process, command=self.command(process.command)) for process in incident.processes)
        return replace(
            incident,
            environment=self.environment(incident.environment),
            command=self.command(incident.command),
            processes=processes,
        )


def _plain(name: str) -> str:
    return name.upper().replace("-", "_")
