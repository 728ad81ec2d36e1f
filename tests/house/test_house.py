"""The house rules, as tests: size, banned calls, layers, and nothing in the repository that belongs to one machine.

They hold without anyone watching, and each says in its name what to do. They read files and run nothing of the project,
apart from import-linter, so that they cost seconds and can be part of `make check`.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("scheduler", "pricing", "serving")
LINES_MAX = {**dict.fromkeys((*PACKAGES, "tools", "bench"), 250), "tests": 400}
FUNCTION_LINES_MAX = 70
CORE_BANNED = ("time", "random", "asyncio", "ray")
MAY_PRINT = re.compile(r"serving/(cli\.py|commands/.*|upstreams/simulated.*/__main__\.py)")
BINARY = {".safetensors", ".parquet", ".png", ".gz", ".ico", ".whl"}
# A path below one of these belongs to one machine; relative paths and parts of addresses are something else.
MACHINE_PATH = re.compile(r"(?<![\w.~}-])/(?:" + "|".join(("work", "root", "home")) + r")/")
CORE_LIKE = "import time\nfrom asyncio import sleep\ndef now():\n    return datetime.datetime.now()\n"


@cache
def files() -> list[str]:
    """Every file that git knows or would take, or, in a copy without git, every file that is not hidden or built."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=False, capture_output=True, text=True
    )
    if listed.returncode == 0:
        names = listed.stdout.splitlines()
    else:
        names = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if "egg-info" not in str(path)]
        names = [name for name in names if not any(part[0] == "." for part in Path(name).parts)]
    return sorted(name for name in names if (ROOT / name).is_file() and "__pycache__" not in name)


def python_files(*folders: str) -> list[str]:
    """The Python files below these folders."""
    return [name for name in files() if name.endswith(".py") and name.startswith(tuple(f"{top}/" for top in folders))]


@cache
def tree(name: str) -> ast.Module:
    """One file, parsed once."""
    return ast.parse((ROOT / name).read_text(encoding="utf-8"), name)


def called(node: ast.AST) -> str:
    """The dotted name of what a call calls, or nothing."""
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def imports_of(module: ast.Module) -> Iterator[tuple[str, int]]:
    """Every top-level package that a module imports, with the line."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").partition(".")[0], node.lineno


def impure(module: ast.Module) -> list[str]:
    """What a module of the core imports or calls and must not: the clock, chance, the event loop, Ray."""
    found = [f"line {line}: import {name}" for name, line in imports_of(module) if name in CORE_BANNED]
    clocks = re.compile(r"\b(datetime|date)\.(now|utcnow|today)$")
    return found + [f"line {node.lineno}: {called(node)}" for node in calls(module) if clocks.search(called(node))]


def prints(module: ast.Module) -> list[int]:
    """Lines that print."""
    return [node.lineno for node in calls(module) if called(node) == "print"]


def calls(node: ast.AST) -> Iterator[ast.Call]:
    """Every call below a node."""
    return (child for child in ast.walk(node) if isinstance(child, ast.Call))


def in_the_same_frame(function: ast.AST) -> Iterator[ast.AST]:
    """What a function itself runs, without the functions it merely defines."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from in_the_same_frame(child)


def blocking_sleeps(module: ast.Module) -> list[int]:
    """Lines where an async function calls time.sleep and stops everything else on its event loop."""
    names = {"time.sleep"}
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            names |= {alias.asname or alias.name for alias in node.names if alias.name == "sleep"}
    functions = (node for node in ast.walk(module) if isinstance(node, ast.AsyncFunctionDef))
    bodies = (node for function in functions for node in in_the_same_frame(function))
    return [node.lineno for node in bodies if isinstance(node, ast.Call) and called(node) in names]


def bare_excepts(module: ast.Module) -> list[int]:
    """Lines with an `except:` that also catches a cancelled task and Ctrl-C."""
    return [node.lineno for node in ast.walk(module) if isinstance(node, ast.ExceptHandler) and node.type is None]


def text_of(name: str) -> str:
    """One file of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def test_a_file_stays_short_enough_to_be_read_at_once() -> None:
    """250 lines, tests 400: split what is longer by topic."""
    lengths = {name: len(text_of(name).splitlines()) for name in python_files(*LINES_MAX)}
    assert {name: lines for name, lines in lengths.items() if lines > LINES_MAX[name.partition("/")[0]]} == {}


def long_functions(module: ast.Module) -> dict[str, int]:
    """Lines of every function that does not fit on a screen."""
    functions = (node for node in ast.walk(module) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    lengths = {function.name: (function.end_lineno or 0) - function.lineno + 1 for function in functions}
    return {name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES_MAX}


def found_in(names: Iterable[str], looks: Callable[[ast.Module], Collection[object]]) -> dict[str, Collection[object]]:
    """What ``looks`` finds, by file; files in which it finds nothing are left out."""
    seen = {name: looks(tree(name)) for name in names}
    assert len(seen) > 10, "a rule that looks at nothing proves nothing"
    return {name: found for name, found in seen.items() if found}


def test_a_function_fits_on_a_screen() -> None:
    """70 lines, docstring and signature included."""
    assert found_in(python_files(*LINES_MAX), long_functions) == {}


def test_the_core_asks_neither_clock_nor_chance_nor_event_loop() -> None:
    """Time comes in as now_s, chance as a generator: only so can the simulator run the same lines."""
    assert found_in(python_files("scheduler/core"), impure) == {}


def test_only_commands_print() -> None:
    """Everything else logs, or returns what it has to say."""
    names = [name for name in python_files(*PACKAGES) if not MAY_PRINT.fullmatch(name)]
    assert found_in(names, prints) == {}


def test_no_async_function_sleeps_the_whole_event_loop() -> None:
    """`await asyncio.sleep` waits; `time.sleep` stops every other request."""
    assert found_in(python_files(*LINES_MAX), blocking_sleeps) == {}


def test_every_except_names_what_it_catches() -> None:
    """A bare one also swallows cancellation."""
    assert found_in(python_files(*LINES_MAX), bare_excepts) == {}


def test_no_file_names_a_path_of_one_machine() -> None:
    """What is written here has to be true on every machine."""
    lines = (
        (f"{name}:{number}", line)
        for name in files()
        if Path(name).suffix not in BINARY
        for number, line in enumerate(text_of(name).splitlines(), 1)
    )
    assert {place: line[:120] for place, line in lines if MACHINE_PATH.search(line)} == {}


@pytest.mark.parametrize("group", ["dependencies", "cpu", "postgres", "dev"])
def test_the_lock_pins_what_pyproject_asks_for(group: str) -> None:
    """In the range that pyproject.toml gives, and sorted, so that a change to the lock reads as what it is."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = project["dependencies"] if group == "dependencies" else project["optional-dependencies"][group]
    lock = re.findall(r"^([\w.-]+)==([^\s;]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    pins = {canonicalize_name(name): version for name, version in lock}
    wanted = [need for need in map(Requirement, asked) if need.name != project["name"]]
    unmet = [str(need) for need in wanted if not need.specifier.contains(pins.get(canonicalize_name(need.name), "0"))]
    assert unmet == []
    assert list(pins) == sorted(pins)


def test_layers_import_only_what_lies_below_them() -> None:
    """The contracts of [tool.importlinter] in pyproject.toml, in a process of their own."""
    script = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([script, "--no-logo"], cwd=ROOT, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_these_rules_find_what_they_forbid() -> None:
    """A rule that never fires proves nothing."""
    assert len(impure(ast.parse(CORE_LIKE))) == 3
    assert long_functions(ast.parse("def f():\n" + "    pass\n" * 70)) == {"f": 71}
    assert prints(ast.parse("print(1)\nlog.print(2)\n")) == [1]
    assert blocking_sleeps(ast.parse("from time import sleep as nap\nasync def f():\n    nap(1)\n")) == [3]
    assert blocking_sleeps(ast.parse("import time\nasync def f():\n    def g():\n        time.sleep(1)\n")) == []
    assert bare_excepts(ast.parse("try:\n    pass\nexcept:\n    pass\n")) == [3]
    assert MACHINE_PATH.search("/".join(("cd ", "home", "me", "x")))
    assert not MACHINE_PATH.search("https://example.org/home/page, ../work/x, ${BASE}/work/x")
