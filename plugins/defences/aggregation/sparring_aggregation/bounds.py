"""How many Byzantine clients a rule bears, and the one sentence that refuses more."""

from __future__ import annotations

from sparring.errors import ConfigError


def admit(name: str, f: int, n: int, needs: str, most: int, instead: str = "") -> None:
    """Raise `ConfigError` where ``f`` exceeds ``most``, the largest that the rule ``name`` bears among ``n`` updates.

    ``needs``: the rule's condition, such as ``2f < n``. ``instead``: another way out, such as ``use beta``.
    """
    if f > most:
        fits = f"set f to at most {most}" if most >= 0 else "choose another rule"
        ways = ", ".join(way for way in (fits, instead) if way)
        raise ConfigError(f"'{name}' with f = {f} got n = {n} updates; it needs {needs}: {ways}, or sample more clients")
