"""Record a real session with the bundled models as docs/images/session.svg, for the README.

python scripts/record_session.py
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
PORT = "18001"


def main() -> None:
    """Start a server, run the commands, and draw what they printed."""
    console = Console(record=True, width=150)
    command = [sys.executable, "-m", "convserve", "serve", "--port", PORT, "--http-port", "0", "--log-level", "error"]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        ready = server.stdout.readline()
        ready = json.dumps({**json.loads(ready), "grpc_port": 8001, "http_port": 8002})
        console.print(Text("$ make serve", style="bold green"))
        console.print(Text(ready))
        for line in (
            "convserve models",
            "convserve classify examples/digit.jpg --model mnist",
            "convserve classify examples/ship.jpg --model cifar10",
        ):
            console.print(Text(f"\n$ {line}", style="bold green"))
            ended = subprocess.run(
                [sys.executable, "-m", *shlex.split(line), "--target", f"127.0.0.1:{PORT}"],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            )
            console.print(Text(ended.stdout.rstrip()))
    finally:
        server.terminate()
        server.wait()
    target = ROOT / "docs/images/session.svg"
    target.parent.mkdir(exist_ok=True)
    console.save_svg(str(target), title="convserve")


if __name__ == "__main__":
    main()
