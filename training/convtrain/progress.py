"""Progress of long jobs on stderr, so that stdout stays for results."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
"""Where people read what is going on."""


def duration(seconds: float) -> str:
    """A length of time for people, to the second, minute or tenth of an hour."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


class Advance(Protocol):
    """Moves a progress bar on."""

    def __call__(self, amount: int, description: str | None = None) -> None:
        """Move by `amount`; a description replaces the text before the bar."""


@contextlib.contextmanager
def bar(description: str, total: int | None, *, done: int = 0, unit: str = "items") -> Iterator[Advance]:
    """Show a bar with the time left while the block runs; yields the function that moves it.

    Args:
        description: the text before the bar.
        total: amount of work; None when it is not known.
        done: amount done before.
        unit: `items` or `bytes`.
    """
    amounts: tuple[ProgressColumn, ...] = (
        (DownloadColumn(), TransferSpeedColumn()) if unit == "bytes" else (MofNCompleteColumn(),)
    )
    columns = (TextColumn("{task.description}"), BarColumn(), *amounts, TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=total, completed=done)

        def advance(amount: int, description: str | None = None) -> None:
            progress.update(task, advance=amount, description=description)

        yield advance
