"""Live progress in the terminal, on stderr; one line for each run where it is no terminal."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from convserve.loadtest.campaign import Progress
from convserve.loadtest.process import Load
from convserve.loadtest.run import Run
from convserve.loadtest.tally import Tally, status_name

_EVERY_SECONDS = 0.5


class LiveProgress(Progress):
    """Rate, percentiles and errors while a run lasts. Use it as a context manager."""

    def __init__(self, console: Console) -> None:
        """Write to a console."""
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._title = ""
        self._load: Load | None = None
        self._tally: Tally | None = None
        self._shown = 0.0

    def __enter__(self) -> LiveProgress:
        """Take the terminal's last lines."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give them back."""
        if self._live is not None:
            self._live.stop()

    def asking(self, done: int, total: int) -> None:
        """Right answers are being collected."""
        if self._live is not None and (done % 16 == 0 or done == total):
            self._live.update(f"asking for the right answers: {done} of {total}")

    def started(self, title: str, load: Load, tally: Tally) -> None:
        """A run begins."""
        self._title, self._load, self._tally, self._shown = title, load, tally, -1.0

    def tick(self, seconds: float) -> None:
        """Show how it goes."""
        if self._live is None or self._tally is None or self._load is None or seconds - self._shown < _EVERY_SECONDS:
            return
        self._shown = seconds
        self._live.update(self._picture(seconds, self._load, self._tally))

    def ended(self, title: str, run: Run) -> None:
        """Leave one line behind."""
        p50, p99 = run.percentile(0.5), run.percentile(0.99)
        times = "no answers" if p50 is None else f"p50 {p50 * 1e3:.2f} ms"
        times += "" if p99 is None else f", p99 {p99 * 1e3:.2f} ms"
        marks = f", {run.tally.failed} failed" if run.tally.failed else ""
        marks += ", INVALID" if run.invalid else ""
        marks += "" if not run.verdicts else ", SLO kept" if run.within_slo else ", SLO missed"
        line = f"{title}: {run.throughput:,.0f} answered/s, {times}{marks}"
        self._console.print(line, highlight=False, soft_wrap=True)

    def _picture(self, seconds: float, load: Load, tally: Tally) -> Table:
        table = Table.grid(padding=(0, 2))
        left = f" of {load.warmup + load.seconds:.0f}" if load.count is None else ""
        phase = "warm-up" if seconds < load.warmup else "measuring"
        table.add_row(f"[bold]{self._title}[/bold]", f"{phase}, {seconds:.0f}{left} s")
        last = [tally.seconds[second] for second in sorted(tally.seconds)[-3:-1]]
        rate = sum(entry.statuses.total() for entry in last) / len(last) if last else 0.0
        table.add_row("rate", f"{rate:,.0f} requests/s")
        latencies = tally.latencies
        shown = ", ".join(
            f"p{share * 100:g} {latencies.percentile(share) * 1e3:.2f}" for share in (0.5, 0.9, 0.99, 0.999)
        )
        table.add_row("latency", f"{shown} ms, longest {latencies.maximum * 1e3:.2f} ms")
        errors = ", ".join(f"{status_name(code)} {count}" for code, count in sorted(tally.statuses.items()) if code)
        table.add_row("errors", errors or "none")
        return table
