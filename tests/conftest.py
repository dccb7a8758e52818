"""`--no-skips`: for runs that must not pass by leaving tests out; `--slow`: with tests that CI runs only."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="a skipped test fails the run")
    parser.addoption("--slow", action="store_true", help="also run what takes long: killed runs, several processes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("slow"):
        return
    left = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in left]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if session.config.getoption("no_skips") and skipped:
        reporter.write_line(f"--no-skips: {len(skipped)} tests were skipped, the first: {skipped[0].nodeid}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
