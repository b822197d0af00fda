"""`convserve classify` against a server of this process."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from convserve.__main__ import main
from support.fake_server import FakeServer, refuse, refuse_images


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ten files whose class is their number."""
    monkeypatch.chdir(tmp_path)
    names = [f"{number}.png" for number in range(10)]
    for number, name in enumerate(names):
        Path(name).write_bytes(bytes([number, 1, 2]))
    return names


def classify(fake: FakeServer, *arguments: str) -> int:
    return main(["classify", "--model", "digits", "--target", fake.target, *arguments])


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_json_is_one_object_per_file(fake: FakeServer, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """In the order of the command line."""
    assert classify(fake, "--json", "--top-k", "2", files[5], files[3]) == 0
    first, second = lines(capsys.readouterr().out)
    assert first == {
        "file": "5.png",
        "predictions": [
            {"label": "class 5", "index": 5, "probability": 0.5},
            {"label": "class 6", "index": 6, "probability": 0.25},
        ],
        "model_version": 4,
        "decoding": ["resized 9x9 to 1x1"],
    }
    assert second["file"] == "3.png"
    assert [len(request.encoded.images) for request in fake.requests] == [2]  # they travelled together


def test_a_token_that_is_no_text_is_a_sentence(
    fake: FakeServer, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Not a traceback."""
    Path("token").write_bytes(b"\xff\xfe")
    assert classify(fake, "--token-file", "token", files[0]) == 1
    assert "--token-file: token holds no token" in capsys.readouterr().err


def test_explain_tells_the_batch(fake: FakeServer, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """In both forms of output."""
    assert classify(fake, "--json", "--explain", files[1]) == 0
    assert lines(capsys.readouterr().out)[0]["batch"]["release_reason"] == "full"
    assert classify(fake, "--explain", files[1]) == 0
    assert "1 of 2 rows in a batch" in capsys.readouterr().out


def test_people_get_a_table(fake: FakeServer, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The best class first, the others below."""
    assert classify(fake, "--top-k", "2", "--version", "stable", files[7]) == 0
    assert capsys.readouterr().out == (
        "FILE   LABEL    PROBABILITY  VERSION  NOTES\n"
        "7.png  class 7  50.00%       4        resized 9x9 to 1x1\n"
        "       class 8  25.00%\n"
    )
    assert fake.requests[0].alias == "stable"


def test_a_dash_reads_stdin(
    fake: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image can come through a pipe."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\x08rest")))
    assert classify(fake, "--json", "-") == 0
    (found,) = lines(capsys.readouterr().out)
    assert (found["file"], found["predictions"][0]["index"]) == ("-", 8)


def test_bad_files_do_not_stop_the_others(
    fake: FakeServer, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is reported by name; the same file twice is no trouble; the exit status tells that something failed."""
    fake.before = refuse_images(2, 6)
    assert classify(fake, "--json", *files, "missing.png", ".", files[2]) == 1
    captured = capsys.readouterr()
    assert [found["file"] for found in lines(captured.out)] == [f"{number}.png" for number in (0, 1, 3, 4, 5, 7, 8, 9)]
    assert [found["predictions"][0]["index"] for found in lines(captured.out)] == [0, 1, 3, 4, 5, 7, 8, 9]
    assert sorted(captured.err.splitlines()) == [
        "convserve classify: .: cannot be read (Is a directory)",
        "convserve classify: 2.png: is a damaged 2",
        "convserve classify: 2.png: is a damaged 2",
        "convserve classify: 6.png: is a damaged 6",
        "convserve classify: missing.png: cannot be read (No such file or directory)",
    ]


def test_many_files_travel_in_chunks(fake: FakeServer, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """No more than one chunk of files is held in memory."""
    assert classify(fake, "--json", *files * 15) == 0
    assert len(lines(capsys.readouterr().out)) == 150
    assert [len(request.encoded.images) for request in fake.requests] == [64, 64, 22]


def test_a_failed_request_is_reported_once(
    fake: FakeServer, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """What is wrong with all files is not said of each."""
    fake.before = lambda request, context: refuse(context, grpc.StatusCode.NOT_FOUND, "no model digits")
    assert classify(fake, *files) == 1
    captured = capsys.readouterr()
    assert captured.err == "convserve classify: no model digits\n"
    assert captured.out == ""


def test_answers_are_shown_although_the_rest_fails(
    fake: FakeServer, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A server that goes away in the middle takes no answers back."""

    def before(request: Any, context: Any) -> None:
        if len(fake.requests) >= 2:
            refuse(context, grpc.StatusCode.UNAVAILABLE, "draining")

    fake.before = before
    assert classify(fake, "--top-k", "1", *files * 10) == 1
    captured = capsys.readouterr()
    assert captured.err == "convserve classify: draining\n"
    assert len(captured.out.splitlines()) == 65


@pytest.mark.parametrize(
    "arguments",
    [
        ["classify", "--model", "m"],
        ["classify", "x.png"],
        ["classify", "x.png", "--model", "m", "--top-k", "0"],
        ["classify", "x.png", "--model", "m", "--timeout", "0"],
        ["classify", "x.png", "--model", "m", "--timeout", "soon"],
        ["clasify"],
        [],
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """And says what is wanted."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: convserve" in capsys.readouterr().err


def test_an_impossible_version_is_refused(
    fake: FakeServer, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is sent."""
    assert classify(fake, "--version", "0", files[0]) == 1
    assert "versions are 1 or higher" in capsys.readouterr().err
    assert fake.requests == []


def test_the_timeout_holds(fake: FakeServer, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A server that hangs is given up."""

    def before(request: Any, context: Any) -> None:
        assert context.time_remaining() < 0.5
        refuse(context, grpc.StatusCode.DEADLINE_EXCEEDED, "too late")

    fake.before = before
    assert classify(fake, "--timeout", "0.5", files[0]) == 1
    assert capsys.readouterr().err == "convserve classify: too late\n"


def test_ctrl_c_ends_with_130(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a traceback."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("convserve.client.Client.models", interrupted)
    assert main(["models", "--target", fake.target]) == 130
