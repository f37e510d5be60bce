"""config/security/policies.xml as names: what each enclave may publish, hear, answer and ask."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

from .declared import Declared

FILE = Path(__file__).parents[1] / "config" / "security" / "policies.xml"
RULES = (("topics", "publish"), ("topics", "subscribe"), ("services", "reply"), ("services", "request"))


def profiles() -> Iterator[tuple[str, ElementTree.Element]]:
    """Path of each enclave, and its profile."""
    for enclave in ElementTree.parse(FILE).getroot().iterfind("enclaves/enclave"):
        for profile in enclave.iterfind("profiles/profile"):
            yield enclave.get("path"), profile


def allowed() -> dict[str, Declared]:
    """By enclave, without its slash."""
    found = {}
    for path, profile in profiles():
        own = found[path.lstrip("/")] = Declared()
        for kind, what in RULES:
            for rule in profile.iterfind(f"{kind}[@{what}='ALLOW']"):
                getattr(own, what).update(absolute(profile, name.text) for name in rule)
        for name in profile.iterfind("actions[@execute='ALLOW']/action"):
            own.executed(absolute(profile, name.text))
    return found


def absolute(profile: ElementTree.Element, name: str) -> str:
    """A name as SROS2 expands it, in the profile's namespace and node."""
    namespace = profile.get("ns").rstrip("/")
    if name.startswith("~"):
        return f"{namespace}/{profile.get('node')}{name[1:]}"
    return name if name.startswith("/") else f"{namespace}/{name}"
