"""A version as text, in dialects that have one field for numbers and aliases."""

from __future__ import annotations

from convserve.errors import InvalidRequestError, NotFoundError

_DIGITS = 18


def version_or_alias(text: str, field: str) -> tuple[int | None, str]:
    """Read a version: empty (the server's choice), a number, or an alias, which never begins with a digit.

    Returns:
        The number, or None; the alias, or an empty text.

    Raises:
        InvalidRequestError: the number is 0.
        NotFoundError: no version can have such a number.
    """
    if not text:
        return None, ""
    if not (text.isascii() and text.isdecimal()):
        return None, text
    if len(text) > _DIGITS:
        raise NotFoundError(f"{field}: there is no version {text}")
    if int(text) == 0:
        raise InvalidRequestError.of(field, "0 came; versions are 1 or higher, and empty is the server's choice")
    return int(text), ""
