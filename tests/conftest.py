"""`--no-skips`: for runs that must not pass by leaving tests out."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="a skipped test fails the run")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if session.config.getoption("no_skips") and skipped:
        reporter.write_line(f"--no-skips: {len(skipped)} tests were skipped, the first: {skipped[0].nodeid}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
