import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2].parent / "shared"


@dataclass(frozen=True)
class Ran:
    """What a command line run gave."""

    code: int
    out: str
    err: str


@pytest.fixture
def geotempo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run the command line in this process, through the same `main` as the console script."""
    from geotempo.cli import main

    def run(*args: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["geotempo", *map(str, args)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        streams = capsys.readouterr()
        return Ran(code, streams.out, streams.err)

    return run


@pytest.fixture
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"no shared data at {SHARED}")
    return SHARED
