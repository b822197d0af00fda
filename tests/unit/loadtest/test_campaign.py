"""From options to loads, and what does not go together."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from convserve.__main__ import main
from convserve.errors import ConfigError
from convserve.loadtest import slo, workload
from convserve.loadtest.campaign import Campaign, Options, Progress, load_of, mix_of
from convserve.loadtest.dialects import Wanted
from convserve.loadtest.link import parse_target
from convserve.loadtest.pacing import ClosedLoop, OpenLoop
from convserve.loadtest.process import Load, Share
from convserve.loadtest.run import Goals, Run
from convserve.loadtest.scenario import SCENARIOS


def options(scenario: str, **changes: Any) -> Options:
    given: dict[str, Any] = {
        "target": parse_target("h:1", 1.0),
        "wanted": Wanted("native", "m"),
        "scenario": SCENARIOS[scenario],
        "mix": workload.parse_mix("1"),
        "rate": 100.0,
    }
    return Options(**(given | changes))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_is_a_load(scenario: str) -> None:
    """Open loops have arrivals, closed loops callers; both of several processes together."""
    load = load_of(options(scenario), 100.0)
    pacing = [Share(load, part, 2).pacing() for part in range(2)]
    kind = OpenLoop if SCENARIOS[scenario].open_loop else ClosedLoop
    assert all(isinstance(one, kind) for one in pacing)
    assert (load.profile is not None) == SCENARIOS[scenario].open_loop


def test_mlperf_decides_sizes() -> None:
    """One image in single-stream, eight in multi-stream; 24,576 in all offline, in requests of 64."""
    assert str(mix_of(SCENARIOS["single-stream"], None)) == "1"
    assert str(mix_of(SCENARIOS["multi-stream"], None)) == "8"
    with pytest.raises(ConfigError, match=r"multi-stream sends 8 image\(s\)"):
        mix_of(SCENARIOS["multi-stream"], "4")
    load = load_of(options("offline", mix=mix_of(SCENARIOS["offline"], None)), None)
    assert load.count == 24_576 / 64
    assert load_of(options("offline", mix=workload.parse_mix("5")), None).count == 4916  # 24,580 images
    assert load_of(options("single-stream", in_flight=64), None).callers == 1


def test_processes_share_callers_connections_and_counts() -> None:
    """Nothing is lost and nothing comes twice."""
    load = replace(load_of(options("offline", connections=5), None), callers=7, count=100)
    shares = [Share(load, part, 3) for part in range(3)]
    assert sum(share.connections for share in shares) == 5
    sent = 0
    for share in shares:
        pacing = share.pacing()
        while pacing.take(load.warmup) is not None:
            pacing.ended(load.warmup)
            sent += 1
    assert sent == 100


def test_only_an_slo_without_a_rate_is_searched() -> None:
    """With a rate it is tested at that rate."""
    goals = Goals(slo.parse("p99=20ms"))
    assert options("server", rate=None, goals=goals).searches
    assert not options("server", goals=goals).searches
    assert not options("closed", rate=None, goals=goals).searches


class Stubbed(Campaign):
    """A campaign whose runs are told, not made."""

    def __init__(self, limit: float, *, invalid_above: float = float("inf")) -> None:
        super().__init__(options("server", rate=None, goals=Goals(slo.parse("p99=20ms"))), Progress())
        self.limit, self.invalid_above = limit, invalid_above

    def measure(self, load: Load, rate: float | None, title: str) -> Run:
        good = rate is None or rate <= self.limit
        run = SimpleNamespace(
            rate=rate,
            throughput=1500.0,
            within_slo=good,
            sustained=good,
            invalid=["busy"] if rate is not None and rate > self.invalid_above else [],
        )
        self.runs.append(run)  # type: ignore[arg-type]
        return run  # type: ignore[return-value]


def quiet(seconds: float) -> None:
    """No pause."""


def test_a_search_finds_the_rate_and_keeps_its_runs() -> None:
    """Begun at half the closed loop's throughput, which is no result itself."""
    campaign = Stubbed(1000)
    found = campaign.search(quiet)
    assert 970 < found.rate <= 1000
    assert not found.in_doubt
    assert campaign.runs[0].rate == 750
    assert [run.rate for run in campaign.runs] == [rate for rate, _ in found.tries]


def test_what_an_invalid_run_keeps_is_kept_and_what_it_misses_is_in_doubt() -> None:
    """A slow client only adds to latency; a miss is tried three times, and the result says so."""
    found = Stubbed(1000, invalid_above=100).search(quiet)
    assert 970 < found.rate <= 1000
    assert found.in_doubt


def test_a_search_ends_where_runs_would_say_nothing() -> None:
    """30 seconds and p99: below 10 requests a second not three would be beyond it."""
    campaign = Stubbed(5)
    assert campaign.lowest_rate == pytest.approx(10)
    assert campaign.search(quiet).rate == 0
    assert all(run.rate is not None and run.rate >= 10 for run in campaign.runs)


@pytest.mark.parametrize(
    ("scenario", "changes", "words"),
    [
        ("server", {"rate": None}, "needs --rate, --sweep or --slo"),
        ("closed", {"sweep": (1.0,)}, "swept and searched with server or constant"),
        ("server", {"check": "luck"}, "check: 'luck' came"),
        ("server", {"check": "labels"}, "needs --min-accuracy"),
        ("server", {"connections": 1, "processes": 2}, "connections: 1 came for 2 processes"),
        ("server", {"connections": 2001, "processes": 2}, r"connections: 2,001 came for 2 process\(es\)"),
    ],
)
def test_what_does_not_go_together_is_refused(scenario: str, changes: dict[str, Any], words: str) -> None:
    """Before anything is sent; the error names the option."""
    with pytest.raises(ConfigError, match=words):
        options(scenario, **changes)


def test_a_closed_loop_has_no_rate() -> None:
    """Answers decide when the next request goes: to call --rate offered would be wrong."""
    campaign = Stubbed(1000)
    campaign.options = options("closed")
    assert campaign.single().rate is None
    campaign.options = options("server")
    assert campaign.single().rate == 100


def test_files_are_read_before_anything_is_sent(tmp_path: Path) -> None:
    """A folder, and a token that no header carries, are sentences."""
    with pytest.raises(ConfigError, match="cannot be read"):
        parse_target("h:1", 1, ca_file=str(tmp_path))
    for content in (b"\xff\xfe", b"two\nlines"):
        (tmp_path / "token").write_bytes(content)
        with pytest.raises(ConfigError, match="token holds no token"):
            parse_target("h:1", 1, token_file=str(tmp_path / "token"))
    (tmp_path / "token").write_text("good\n")
    assert parse_target("h:1", 1, tls=True, token_file=str(tmp_path / "token")).token == "good"


def test_a_token_travels_in_the_clear_only_on_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As those of the client do; the command ends with a sentence before anything is sent."""
    token, ca = str(tmp_path / "token"), str(tmp_path / "ca.pem")
    for path in (token, ca):
        Path(path).write_text("good\n")
    for target in ("localhost:1", "127.0.0.1:1", "[::1]:1", "dns:///localhost:1"):
        assert parse_target(target, 1, token_file=token).token == "good"
    assert parse_target("h:1", 1, ca_file=ca, token_file=token).token == "good"
    with pytest.raises(ConfigError, match=r"token: would travel to localhost\.example:1 unencrypted"):
        parse_target("localhost.example:1", 1, token_file=token)
    for command in (["loadtest", "--rate", "1"], ["plan", "--rate", "1", "--slo", "p99=1s"]):
        assert main([*command, "--model", "m", "--target", "models.example:1", "--token-file", token]) == 1
        assert "token: would travel to models.example:1 unencrypted; set" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "host", "host:", ":80", "host:http", "host:70000", "host:²"])
def test_what_is_no_target_is_refused(text: str) -> None:
    """The error shows the form."""
    with pytest.raises(ConfigError, match="wanted is HOST:PORT"):
        parse_target(text, 1.0)


def test_targets_are_read() -> None:
    """Names, addresses, IPv6 in brackets."""
    assert parse_target("dns:///models:80", 1).authority == "models:80"
    assert parse_target("[::1]:80", 1).host == "::1"
    assert parse_target("[::1]:80", 1).authority == "[::1]:80"
    with pytest.raises(ConfigError, match="nothing cannot be read"):
        parse_target("h:1", 1, token_file="nothing")
    with pytest.raises(ConfigError, match="needs its key"):
        parse_target("h:1", 1, cert_file="x.pem")


def test_without_the_extra_the_command_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A client-only installation."""
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert main(["loadtest", "--model", "m", "--rate", "1"]) == 1
    assert "pip install 'convserve[loadtest]'" in capsys.readouterr().err
