"""The string below each field of a class: written once, for readers of the code and of `--help` alike."""

from __future__ import annotations

import ast
import inspect
import textwrap


def of_fields(section: type) -> dict[str, str]:
    """The string below each field of a class, by field name, on one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(section))).body[0]
    if not isinstance(body, ast.ClassDef):
        raise TypeError(f"{section} is not a class")
    found = {}
    for statement, after in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            found[statement.target.id] = " ".join(str(after.value.value).split())
    return found
