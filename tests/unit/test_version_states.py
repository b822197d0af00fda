"""The life of versions, step by random step, against a model of it: real manager, registry, files and proofs."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from prometheus_client import CollectorRegistry

from convserve import manifest as m
from convserve.config import Settings
from convserve.errors import ConfigError, NotFoundError, VersionNotAvailableError
from convserve.lifecycle import VersionState
from convserve.manager import Manager
from convserve.metrics import Metrics
from convserve.registry import Registry
from support import versions

NUMBERS = st.integers(1, 4)


class Versions(RuleBasedStateMachine):
    """Publishes, damages, deletes, loads, unloads and points aliases, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp())
        self.root = self.base / "repository"
        versions.write_version(self.root)
        self.contents = 0
        self.disk: dict[int, tuple[int, bool]] = {1: (0, True)}
        self.begin()

    def begin(self) -> None:
        """A server that has seen nothing yet."""
        self.registry = Registry()
        self.manager = Manager(
            Settings(model_repository=self.root), self.registry, Metrics(CollectorRegistry(), "test"), 1
        )
        self.available: dict[int, int] = {}
        self.pinned: set[int] = set()
        self.held: set[int] = set()
        self.aliases: dict[str, int] = {}
        self.ever_available = False

    def teardown(self) -> None:
        self.manager.close()
        shutil.rmtree(self.base)

    # What happens outside

    @rule(number=NUMBERS, good=st.booleans())
    def publish(self, number: int, good: bool) -> None:
        """A version appears, or is replaced by another content in one step."""
        self.contents += 1
        staged = versions.write_version(self.base / f"staged-{self.contents}", version=number, seed=self.contents)
        if not good:
            (staged / m.GOLDEN_FILE).write_bytes(b"damaged")
        target = self.root / f"stripes/{number}"
        if target.exists():
            target.rename(self.base / f"old-{self.contents}")
        staged.rename(target)
        self.disk[number] = (self.contents, good)

    @rule(number=NUMBERS)
    def delete(self, number: int) -> None:
        """A version is deleted."""
        if number in self.disk:
            shutil.rmtree(self.root / f"stripes/{number}")
            del self.disk[number]

    @rule()
    def flap(self) -> None:
        """The repository is away for a moment, and a look at it fails."""
        away = self.base / "away"
        self.root.rename(away)
        try:
            self.manager.reconcile()
        except ConfigError:
            pass
        else:
            raise AssertionError("a missing repository went unnoticed")
        away.rename(self.root)

    # What the server does

    @rule()
    def reconcile(self) -> None:
        """A look at the repository brings what the policy wants; nothing that could be proved is left unserved."""
        self.manager.reconcile()
        self.settle()
        if not self.available:
            assert not any(good for number, (_, good) in self.disk.items() if number not in self.held)

    @rule()
    def restart(self) -> None:
        """A server that starts on what lies there serves the newest version that can be proved."""
        self.manager.close()
        self.begin()
        failures = self.manager.reconcile()
        self.settle()
        good = [number for number, (_, good) in self.disk.items() if good]
        assert set(self.available) == set(sorted(good)[-1:])
        assert bool(failures) == (not good and bool(self.disk))

    @rule(late=st.booleans())
    def succeed(self, late: bool) -> None:
        """A server that takes this one's place does as administrators said, whenever it learns that."""
        wishes, pinned, held, aliases = self.manager.wishes(), self.pinned, self.held, self.aliases
        self.restart()
        if not late:
            self.manager.close()
            self.begin()
        self.pinned, self.held, self.aliases = pinned, held, aliases
        if late:
            self.available = {number: content for number, content in self.available.items() if number not in held}
            self.manager.follow(wishes)
        else:
            self.manager.adopt(wishes)
            self.manager.reconcile()
        self.settle()

    @rule(number=NUMBERS)
    @precondition(lambda self: self.ever_available)
    def load(self, number: int) -> None:
        """An administrator loads a version; one that fails is wanted no more than before."""
        before = self.pinned.copy(), self.held.copy()
        failed = False
        try:
            self.manager.load("stripes", number)
        except NotFoundError:
            assert number not in self.disk
            return
        except VersionNotAvailableError:
            assert not self.disk[number][1]
            failed = True
        self.held.discard(number)
        self.pinned.add(number)
        self.settle(retry=number)
        if failed:
            self.pinned, self.held = before

    @rule(number=NUMBERS)
    def unload(self, number: int) -> None:
        """An administrator unloads a version."""
        try:
            self.manager.unload("stripes", number)
        except (VersionNotAvailableError, NotFoundError):
            assert number not in self.available or number in self.aliases.values()
            return
        del self.available[number]
        self.held.add(number)
        self.pinned.discard(number)
        self.settle()

    @rule(alias=st.sampled_from(["stable", "canary"]), number=st.integers(0, 4))
    @precondition(lambda self: self.ever_available)
    def set_alias(self, alias: str, number: int) -> None:
        """An administrator points an alias at a version, which loads it for as long, or removes the alias."""
        before = self.pinned.copy(), self.held.copy()
        must_load = bool(number) and number not in self.available
        try:
            self.manager.set_alias("stripes", alias, number)
        except NotFoundError:
            assert must_load
            assert number not in self.disk
            return
        except VersionNotAvailableError:
            assert must_load
            assert not self.disk[number][1]
            number = -number
        if must_load:
            self.held.discard(abs(number))
            self.pinned.add(abs(number))
            self.settle(retry=abs(number))
        self.pinned = before[0]
        if number > 0:
            self.aliases[alias] = number
        elif number == 0:
            self.aliases.pop(alias, None)
        else:
            self.held = before[1]

    def settle(self, retry: int = 0) -> None:
        """What the model expects after the manager has done all it wants to."""
        candidates = sorted(set(self.disk) - self.held, reverse=True)
        pinned = self.pinned | set(self.aliases.values())
        provable = [number for number in candidates if self.disk[number][1] or number in self.available]
        wanted = [number for number in candidates if number in provable[:1] or number in pinned]
        for number in wanted:
            content, good = self.disk[number]
            if good:
                self.available[number] = content
        if any(number in self.available for number in wanted):
            self.available = {number: content for number, content in self.available.items() if number in wanted}
        self.ever_available = self.ever_available or bool(self.available)

    # What always holds

    def statuses(self) -> dict[int, Any]:
        return self.registry.models().get("stripes", {})

    @invariant()
    def exactly_the_expected_versions_answer(self) -> None:
        """The registry hands out what the model says, with the content that the model says."""
        loaded = {one.manifest.version: one for one in self.registry.loaded()}
        assert set(loaded) == set(self.available)
        images = versions.random_images(2)
        for number, one in loaded.items():
            expected = versions.reference(images, seed=self.available[number])
            assert abs(one.runtime.run(images).probabilities - expected).max() < 1e-6

    @invariant()
    def states_tell_the_truth(self) -> None:
        """Available is what is loaded; nothing stays in a passing state; a failure has its reason."""
        for number, status in self.statuses().items():
            assert (status.state is VersionState.AVAILABLE) == (number in self.available)
            assert status.state not in (VersionState.LOADING, VersionState.WARMING, VersionState.DRAINING)
            assert status.state is not VersionState.FAILED or status.reason

    @invariant()
    def the_default_answers(self) -> None:
        """Stable if it is there, else the highest."""
        stable = self.aliases.get("stable", 0)
        expected = stable if stable in self.available else max(self.available, default=0)
        assert self.registry.default_version("stripes") == expected


Versions.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestVersions = Versions.TestCase
