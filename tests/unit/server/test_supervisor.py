"""What a supervisor has its workers do, with workers that are none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from convserve.config import Settings
from convserve.errors import UnavailableError, VersionNotAvailableError
from convserve.host import CpuPlan
from convserve.server.supervisor import Supervisor

Ask = Callable[..., Any]


def supervise(*asks: Ask) -> Supervisor:
    """A supervisor of ready workers that answer so."""
    supervisor = Supervisor(Settings(), CpuPlan(len(asks), 1))
    for index, ask in enumerate(asks):
        worker: Any = SimpleNamespace(index=index, ready=True, line=SimpleNamespace(ask=ask))
        supervisor._workers[index] = worker
    return supervisor


def administer(supervisor: Supervisor, *question: Any) -> Any:
    return supervisor.hear(supervisor._workers[0], question)


def test_admin_methods_come_to_all_workers_in_the_same_order() -> None:
    """Of two callers at once the same one is last everywhere, or workers would answer differently from then on."""
    carried_out: tuple[list[str], list[str]] = ([], [])
    first_is_late, second_came = threading.Event(), threading.Event()

    def first_worker(*question: Any) -> None:
        carried_out[0].append(question[0])

    def second_worker(*question: Any) -> None:
        if question == ("first",):
            first_is_late.set()
            second_came.wait(0.2)  # longer than the second caller needs, if nothing holds it back
        carried_out[1].append(question[0])
        second_came.set()

    supervisor = supervise(first_worker, second_worker)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(administer, supervisor, "first")
        assert first_is_late.wait(10)
        second = pool.submit(administer, supervisor, "second")
        first.result(10)
        second.result(10)
    assert carried_out[1] == ["first", "second"]
    assert [question for question in carried_out[0] if question != "wishes"] == ["first", "second"]


def test_all_workers_load_the_version_that_was_the_highest_for_the_first() -> None:
    """Another may be published while they do."""
    asked: list[tuple[Any, ...]] = []

    def first(*question: Any) -> Any:
        return 7 if question[0] == "load" else None

    def second(*question: Any) -> int:
        asked.append(question)
        return 7

    assert administer(supervise(first, second), "load", "mnist", 0) == 7
    assert asked == [("load", "mnist", 7)]


def test_what_was_refused_adds_up() -> None:
    """Each worker refuses its own requests when a version is unloaded."""

    def worker(*question: Any) -> Any:
        return ([3], 2) if question[0] == "unload" else None

    assert administer(supervise(worker, worker), "unload", "mnist", 3) == ([3], 4)


def test_a_caller_is_told_to_try_again_when_a_worker_ends_meanwhile() -> None:
    """What it had done is gone with it."""

    def gone(*question: Any) -> Any:
        raise EOFError(question)

    with pytest.raises(UnavailableError, match="a worker ended while this was carried out; try again"):
        administer(supervise(gone), "load", "mnist", 1)


@pytest.mark.parametrize("others", [0, 1])
def test_a_worker_that_is_not_ready_passes_nothing_on(others: int) -> None:
    """It could not tell its caller of a version that the others have loaded, and it has not."""

    def untouched(*question: Any) -> Any:
        raise AssertionError(question)

    supervisor = supervise(*[untouched] * (1 + others))
    supervisor._workers[0].ready = False
    with pytest.raises(UnavailableError, match="the worker that was asked is not ready; try again"):
        administer(supervisor, "load", "mnist", 1)


@pytest.mark.parametrize(
    ("failure", "told"),
    [(VersionNotAvailableError("damaged"), VersionNotAvailableError), (EOFError("killed"), UnavailableError)],
)
def test_what_one_worker_cannot_do_none_has_done(failure: Exception, told: type[Exception]) -> None:
    """Workers that had done it already go back, or callers would be answered by some of them and refused by others."""
    asked: list[tuple[Any, ...]] = []

    def able(*question: Any) -> Any:
        asked.append(question)
        return "wished before" if question == ("wishes",) else 2

    def unable(*question: Any) -> Any:
        raise failure

    def untouched(*question: Any) -> Any:
        raise AssertionError(question)

    supervisor = supervise(able, unable, untouched)
    with pytest.raises(told):
        administer(supervisor, "load", "mnist", 2)
    assert asked[-1] == ("follow", "wished before")
    assert supervisor._wishes is None
