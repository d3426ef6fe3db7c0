"""The layout of the code: imports point down, nothing goes round in a circle, each package is shipped.

Deferred imports (inside functions, under TYPE_CHECKING) count like all others: they hide a circle, they do not cut it.
"""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the ground up. What stands on one line may not import its neighbours on that line.
FLOORS = (
    ("mmm_rs",),
    ("mmm_rs_reading",),
    ("mmm_rs_loader",),
    ("conversion",),
    ("dataset_card",),
    ("mmm_rs_hub",),
    ("mmm_rs_cli",),
)
FLOOR_OF = {name: number for number, names in enumerate(FLOORS) for name in names}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def source_files() -> Iterator[Path]:
    for name in FLOOR_OF:
        if (file := ROOT / f"{name}.py").exists():
            yield file
        yield from sorted((ROOT / name).rglob("*.py"))


MODULES = {module_name(path): path for path in source_files()}


def imported(name: str, path: Path) -> Iterator[tuple[int, str]]:
    """(line, module of the project) of each import in a file, the deferred ones too."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(
                    [*package.split(".")[: len(package.split(".")) - node.level + 1], *filter(None, [base])]
                )
            targets = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            while target and target not in MODULES:
                target = target.rpartition(".")[0]
            if target and target != name:
                yield node.lineno, target


IMPORTS = {name: sorted(imported(name, path)) for name, path in MODULES.items()}


def top(module: str) -> str:
    return module.partition(".")[0]


def test_the_walk_sees_the_code():
    assert {top(name) for name in MODULES} == {
        name for name in FLOOR_OF if (ROOT / name).exists() or (ROOT / f"{name}.py").exists()
    }
    assert any(top(target) == "mmm_rs" for _, target in IMPORTS["conversion.names"])


def test_imports_point_down_only():
    upward = [
        f"{MODULES[name].relative_to(ROOT)}:{line} imports {target}"
        for name, targets in IMPORTS.items()
        for line, target in targets
        if top(target) != top(name) and FLOOR_OF[top(target)] >= FLOOR_OF[top(name)]
    ]
    assert upward == []


def test_no_module_imports_itself_by_way_of_others():
    graph = {name: {target for _, target in targets} for name, targets in IMPORTS.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_the_builder_alone_needs_nothing_of_the_project(tmp_path):
    """`mmm_rs.py` lies beside the data and is used alone, without the packages that it has here."""
    assert IMPORTS["mmm_rs"] == []
    (tmp_path / "mmm_rs.py").write_bytes((ROOT / "mmm_rs.py").read_bytes())
    names = [name for name in FLOOR_OF if name != "mmm_rs"]
    code = f"import sys; sys.modules.update(dict.fromkeys({names})); import mmm_rs; print(mmm_rs.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).parent == tmp_path


def test_every_package_and_data_file_is_shipped(tmp_path):
    """A wheel holds each module and what it reads at run time. `pip wheel` is not ours."""
    pytest.importorskip("pip")
    copy = tmp_path / "copy"
    subprocess.run(["git", "-C", str(ROOT), "checkout-index", "--all", f"--prefix={copy}/"], check=True)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(copy)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no wheel can be built here: {done.stderr.strip().splitlines()[-1:]}")
    [wheel] = tmp_path.glob("*.whl")
    shipped = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True)
    expected = {name for name in tracked.stdout.splitlines() if top(name.replace("/", ".")) in FLOOR_OF}
    assert expected and expected - shipped == set()


def test_the_names_of_packages_collide_with_nothing():
    """They are installed beside everything else that a user has."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 brings it")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["setuptools"]["packages"]
    modules = project["tool"]["setuptools"]["py-modules"]
    new = {top(name) for name in [*packages, *modules]} - {"conversion", "dataset_card"}
    assert new and all(name.startswith("mmm_rs") for name in new)
