"""Which version comes next."""

from __future__ import annotations

import pytest

from convserve.lifecycle import Known, Load, Unload, VersionPolicy, VersionState, next_action

AVAILABLE, FAILED, LOADING, UNLOADED = (
    VersionState.AVAILABLE,
    VersionState.FAILED,
    VersionState.LOADING,
    VersionState.UNLOADED,
)
LATEST = VersionPolicy()


def known(**states: VersionState) -> dict[int, Known]:
    return {int(name[1:]): Known(state, "a") for name, state in states.items()}


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        (VersionPolicy(), [3]),
        (VersionPolicy(latest=2), [3, 2]),
        (VersionPolicy(all=True), [3, 2, 1]),
        (VersionPolicy(specific=(1, 7)), [1]),
    ],
)
def test_policies(policy: VersionPolicy, wanted: list[int]) -> None:
    """Highest first; versions that do not exist are not wanted."""
    assert policy.wanted([1, 3, 2]) == wanted


def test_a_new_version_is_loaded_before_the_old_one_stops() -> None:
    """Load first; unload once the new one is available."""
    found = {1: "a", 2: "a"}
    assert next_action(found, known(v1=AVAILABLE), LATEST) == Load(2)
    assert next_action(found, known(v1=AVAILABLE, v2=LOADING), LATEST) is None
    assert next_action(found, known(v1=AVAILABLE, v2=AVAILABLE), LATEST) == Unload(1)
    assert next_action(found, known(v1=UNLOADED, v2=AVAILABLE), LATEST) is None


def test_a_version_that_fails_leaves_the_old_one() -> None:
    """The old one keeps serving, and the failed one is not tried again until it changes."""
    states = known(v1=AVAILABLE, v2=FAILED)
    assert next_action({1: "a", 2: "a"}, states, LATEST) is None
    assert next_action({1: "a", 2: "changed"}, states, LATEST) == Load(2)


def test_the_next_older_version_serves_in_place_of_one_that_failed() -> None:
    """At a start there is no old one that could stay; the failed one is tried again when it changes."""
    found = {1: "a", 2: "a", 3: "a"}
    assert next_action(found, {}, LATEST) == Load(3)
    assert next_action(found, known(v3=FAILED), LATEST) == Load(2)
    assert next_action(found, known(v2=FAILED, v3=FAILED), LATEST) == Load(1)
    assert next_action(found, known(v1=AVAILABLE, v2=FAILED, v3=FAILED), LATEST) is None
    assert next_action(found, known(v1=FAILED, v2=FAILED, v3=FAILED), LATEST) is None
    repaired = {**found, 3: "b"}
    assert next_action(repaired, known(v1=AVAILABLE, v2=FAILED, v3=FAILED), LATEST) == Load(3)
    states = {**known(v1=AVAILABLE, v2=FAILED), 3: Known(AVAILABLE, "b")}
    assert next_action(repaired, states, LATEST) == Unload(1)


def test_only_latest_looks_for_another_version() -> None:
    """Versions that are named, by `specific` or by an alias, have no substitute; `all` wants the older ones anyway."""
    found = {1: "a", 2: "a"}
    assert next_action(found, known(v2=FAILED), VersionPolicy(specific=(2,))) is None
    pinned = VersionPolicy(specific=(2,), pinned=frozenset({1}))
    assert next_action(found, known(v1=FAILED, v2=AVAILABLE), pinned) is None
    assert VersionPolicy(all=True).wanted(found, {2}) == [2, 1]
    assert VersionPolicy(latest=2).wanted([1, 2, 3, 4], {3}) == [4, 2]


def test_a_version_whose_content_changed_is_proved_anew() -> None:
    """Whoever overwrites a version gets it loaded, and replaced only if it holds."""
    assert next_action({1: "changed"}, known(v1=AVAILABLE), LATEST) == Load(1)


def test_a_vanished_repository_stops_nothing() -> None:
    """A mount that flaps must not take the service down."""
    assert next_action({}, known(v1=AVAILABLE), LATEST) is None


def test_an_older_version_comes_back_when_the_newest_is_deleted() -> None:
    """Deleting the newest version is a rollback: the older one is proved, then the deleted one unloads."""
    assert next_action({1: "a"}, known(v1=UNLOADED, v2=AVAILABLE), LATEST) == Load(1)
    assert next_action({1: "a"}, known(v1=AVAILABLE, v2=AVAILABLE), LATEST) == Unload(2)


@pytest.mark.parametrize("policy", [VersionPolicy(pinned=frozenset({1})), VersionPolicy(all=True)])
def test_a_failure_elsewhere_keeps_no_deleted_version(policy: VersionPolicy) -> None:
    """The bad one stops once an older one answers, though another, under an alias for instance, has failed long ago."""
    found = {1: "a", 2: "a"}
    assert next_action(found, known(v1=FAILED, v2=AVAILABLE, v3=AVAILABLE), policy) == Unload(3)


def test_the_old_latest_stays_while_the_new_one_has_failed() -> None:
    """Also when another wanted version, one with an alias, is available."""
    policy = VersionPolicy(pinned=frozenset({2}))
    found = {2: "a", 3: "a", 4: "a"}
    assert next_action(found, known(v2=AVAILABLE, v3=AVAILABLE, v4=FAILED), policy) is None
    assert next_action(found, known(v2=AVAILABLE, v3=AVAILABLE, v4=AVAILABLE), policy) == Unload(3)


def test_held_versions_are_not_wanted() -> None:
    """What an administrator unloaded stays so; the policy goes on with the next one."""
    assert VersionPolicy(held=frozenset({3})).wanted([1, 2, 3]) == [2]


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("latest", VersionPolicy()),
        ("latest:3", VersionPolicy(latest=3)),
        ("all", VersionPolicy(all=True)),
        ("specific:2,5", VersionPolicy(specific=(2, 5))),
    ],
)
def test_policies_are_read(text: str, policy: VersionPolicy) -> None:
    """Four forms."""
    assert VersionPolicy.parse(text) == policy


@pytest.mark.parametrize("text", ["", "newest", "latest:0", "latest:x", "specific", "specific:", "all:1", "latest:1,2"])
def test_other_policies_are_refused(text: str) -> None:
    """With the forms there are."""
    with pytest.raises(ValueError, match="it must be latest, latest:N, all or specific:N,N"):
        VersionPolicy.parse(text)
