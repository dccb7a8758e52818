"""Who may import whom, and who must stay free of torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A room may import itself and the rooms named here, at module level or inside a function.
ALLOWED = {
    "model": set(),
    "data_builders": {"model"},
    "finetune": {"model", "data_builders", "serve", "eval"},  # a run answers and scores some samples while it learns
    "serve": {"model"},
    "eval": {"model", "data_builders", "serve"},
}
TORCH_FREE = ["geotempo.model.answer", "geotempo.model.geo", "geotempo.model.draw", "geotempo.model.predictor",
              "geotempo.model.prompts", "geotempo.data_builders.sample", "geotempo.data_builders.store",
              "geotempo.data_builders.scenes.samples", "geotempo.eval.metrics", "geotempo.cli"]


def imported_rooms(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} has a relative import"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name.split(".")[1] for name in names if name.startswith("geotempo.")}


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_go_one_way(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        wrong = imported_rooms(path) & set(ALLOWED) - ALLOWED[room] - {room}
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}; {room} may import {sorted(ALLOWED[room])}"


def module_graph() -> dict[str, set[str]]:
    """Module-level imports between our modules."""
    modules = {"geotempo" + ("" if room == "geotempo" else f".{room}") + "".join(f".{part}" for part in
               path.relative_to(ROOT / room).with_suffix("").parts if part != "__init__"): path
               for room in ("geotempo", *ALLOWED) for path in (ROOT / room).rglob("*.py")}
    graph = {}
    for name, path in modules.items():
        targets = set()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                targets.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                targets.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
        graph[name] = {target for target in targets if target in modules and target != name}
    return graph


def test_no_import_circle() -> None:
    graph, done = module_graph(), set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"circle: {' -> '.join((*path, name))}"
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("module", TORCH_FREE)
def test_no_torch(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
