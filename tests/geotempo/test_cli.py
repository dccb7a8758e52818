"""The command line as a whole: help, version, one-line errors."""

import subprocess
import sys

import pytest


def geotempo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "geotempo", *arguments], capture_output=True, text=True, check=False)


def test_help_lists_every_command() -> None:
    done = geotempo("--help")
    assert done.returncode == 0
    for command in ("demo", "predict", "build", "check", "show", "compose", "train", "eval", "score"):
        assert command in done.stdout


def test_help_imports_nothing_heavy() -> None:
    code = ("import sys; import geotempo.cli; heavy = {'torch', 'transformers', 'numpy', 'pyarrow', 'scipy', 'PIL', 'shapely', "
            "'rasterio'}; print(sorted(heavy & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["demo", "predict", "build", "check", "show", "compose", "train", "eval", "score"])
def test_every_command_explains_itself(command: str) -> None:
    done = geotempo(command, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout


@pytest.mark.parametrize(("arguments", "words"), [
    (("train", "missing.yaml"), ("missing.yaml", "cannot read")),
    (("check", "/nonexistent"), ("/nonexistent",)),
    (("compose", "--vision", "/nonexistent", "--llm", "tiny-llama", "--out", "x"), ("/nonexistent", "tiny-clip")),
])
def test_errors_are_one_line_with_exit_code_2(arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    done = geotempo(*arguments)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("geotempo: error:")]
    assert len(lines) == 1
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in lines[0]

