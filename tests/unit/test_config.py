"""Settings: where they come from, and what a wrong one says."""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import msgspec
import pytest

from convserve import config
from convserve.errors import ConfigError
from convserve.server import listener


def parse(*argv: str) -> dict[str, object]:
    parser = argparse.ArgumentParser()
    config.add_arguments(parser)
    return vars(parser.parse_args(argv))


def test_flags_beat_variables_beat_the_file(tmp_path: Path) -> None:
    """Each source overrides the one below it, field by field."""
    file = tmp_path / "settings.toml"
    file.write_text("port = 1\nhttp_port = 1\nhost = 'file'\n[model]\nmax_batch_size = 8\n")
    settings = config.load(
        parse("--config", str(file), "--port", "3"), {"CONVSERVE_PORT": "2", "CONVSERVE_HTTP_PORT": "2"}
    )
    assert (settings.port, settings.http_port, settings.host) == (3, 2, "file")
    assert settings.model.max_batch_size == 8
    assert settings.model.max_queue_delay == 0.0


def test_models_override_the_common_section(tmp_path: Path) -> None:
    """A model's table changes what it names and keeps the rest."""
    file = tmp_path / "settings.toml"
    file.write_text("[model]\nmax_batch_size = 8\n[models.mnist]\nmax_queue_delay = 0.5\n")
    settings = config.load({"config": file}, {"CONVSERVE_MODEL_MAX_QUEUE_ROWS": "99"})
    assert settings.for_model("mnist") == config.ModelSettings(max_batch_size=8, max_queue_delay=0.5, max_queue_rows=99)
    assert settings.for_model("other").max_queue_delay == 0.0


@pytest.mark.parametrize(
    ("argv", "environment", "message"),
    [
        (["--port", "99999"], {}, "--port is '99999': Expected `int` <= 65535"),
        ([], {"CONVSERVE_PORT": "many"}, "CONVSERVE_PORT is 'many'"),
        ([], {"CONVSERVE_PROT": "1"}, "CONVSERVE_PROT is set, and there is no such setting"),
        (["--log-level", "loud"], {}, "it must be one of debug, info, warning, error"),
        (["--model-allowed-batch-sizes", "4,2,64"], {}, r"must be ascending and end with max_batch_size"),
        (["--model-max-queue-rows", "5"], {}, "max_queue_rows is 5, less than max_batch_size"),
        (["--limits-max-connection-age", "2592000"], {}, "--limits-max-connection-age is '2592000': Expected"),
        (["--limits-max-connections", "9999999999"], {}, "--limits-max-connections is '9999999999': Expected"),
        (["--limits-max-connections", str(2**31 - 1)], {}, "--limits-max-connections is '2147483647': Expected"),
        (["--workers", "99999"], {}, "--workers is '99999': Expected `int` <= 1024"),
        (["--intra-op-threads", "4294967296"], {}, "--intra-op-threads is '4294967296': Expected `int` <= 1024"),
        (["--config", "nowhere.toml"], {}, "nowhere.toml cannot be read"),
    ],
)
def test_a_wrong_setting_is_named(argv: list[str], environment: dict[str, str], message: str) -> None:
    """Name, source, what came, what is wanted."""
    with pytest.raises(ConfigError) as refused:
        config.load(parse(*argv), environment)
    assert message in str(refused.value)


def test_grpc_takes_every_limit_that_a_setting_takes() -> None:
    """It has 32 bits for what the settings have as numbers of any size, and seconds as milliseconds."""
    largest = config.LimitSettings(
        max_message_bytes=2**31 - 1,
        max_header_bytes=2**20,
        max_connections=2**31 - 2,
        max_streams_per_connection=2**31 - 2,
        max_connection_age=24 * 86400.0,
        max_connection_age_grace=24 * 86400.0,
    )
    assert config.load({f"limits_{name}": str(value) for name, value in msgspec.structs.asdict(largest).items()}, {})
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool, options=listener.options(largest, shared=False))
        assert server.add_insecure_port("127.0.0.1:0")  # some of them are read only now
        server.start()
        server.stop(0).wait(10)


@pytest.mark.parametrize(
    "text", ["prot = 1", "[model]\nbatch = 1", "[models.x]\nbatch = 1", "port = [", "[other]\na=1"]
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str) -> None:
    """Unknown keys are errors everywhere in the file."""
    file = tmp_path / "settings.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"settings\.toml"):
        config.load({"config": file}, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"models = 3", "models is 3; it must be a table, [models]"),
        (b"[models]\nmnist = 3", "models.mnist is 3; it must be a table, [models.mnist]"),
        (b"model = 3", "model is 3; it must be a table, [model]"),
        (b"port = 1 # \xff", "is not valid TOML"),
        (b"[drain]\ntimeout = inf", "`$.drain.timeout`"),
        (b"model_repository = 5", "Expected `str`, got `int` - at `$.model_repository`"),
        (b"[model]\naliases = {stable = 9999999999999999999}", "`$.model.aliases[...]`"),
    ],
)
def test_a_file_of_the_wrong_kind_is_explained(tmp_path: Path, text: bytes, message: str) -> None:
    """Also where a flag would go into a table that is none."""
    file = tmp_path / "settings.toml"
    file.write_bytes(text)
    for argv in ([], ["--model-max-batch-size", "64"]):
        with pytest.raises(ConfigError) as refused:
            config.load({**parse(*argv), "config": file}, {})
        assert message in str(refused.value)
        assert "settings.toml" in str(refused.value)


def test_kubernetes_service_links_are_not_settings() -> None:
    """A Service named convserve puts CONVSERVE_PORT=tcp://… into every pod beside it."""
    links = {
        "CONVSERVE_PORT": "tcp://10.0.0.7:8001",
        "CONVSERVE_SERVICE_HOST": "10.0.0.7",
        "CONVSERVE_SERVICE_PORT": "8001",
        "CONVSERVE_SERVICE_PORT_GRPC": "8001",
        "CONVSERVE_PORT_8001_TCP": "tcp://10.0.0.7:8001",
        "CONVSERVE_PORT_8001_TCP_ADDR": "10.0.0.7",
    }
    assert config.load({}, links) == config.Settings()


def test_every_setting_has_a_flag_with_help_and_default() -> None:
    """Nothing can be set that `--help` does not explain."""
    for option in config.options():
        assert option.help, option.flag
    assert {option.flag for option in config.options()} >= {"--port", "--model-max-batch-size", "--drain-timeout"}


def test_help_tells_a_default_of_zero_from_none_at_all() -> None:
    """0 turns some settings off and leaves others to the server; either way it is what a reader may type."""
    parser = argparse.ArgumentParser()
    config.add_arguments(parser)
    text = " ".join(parser.format_help().split())
    assert "(default: 0; CONVSERVE_INTRA_OP_THREADS)" in text
    assert "(default: false; CONVSERVE_ADMIN_METHODS)" in text
    assert "(default: none; CONVSERVE_MODEL_SHADOW)" in text
