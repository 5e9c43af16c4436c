"""Dependencies: what the code imports is what pyproject.toml states, with a lower bound."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: Extras for users; "test", "docs" and "dev" are for those who change the code.
EXTRAS = {name: PROJECT["optional-dependencies"][name] for name in PROJECT["optional-dependencies"]}
USERS = [name for name in EXTRAS if name not in ("test", "docs", "dev")]
#: Distributions whose packages have another name.
DISTRIBUTIONS = {"PIL": "pillow", "mlflow": "mlflow-skinny", "sklearn": "scikit-learn", "yaml": "pyyaml"}
#: Packages that others import: optuna's gRPC storage, torch's summary writer and torch.onnx.
INDIRECT = {"grpcio", "protobuf", "tensorboard", "onnx"}
#: Modules that are themselves imported only once their extra is known to be installed.
ON_DEMAND = (
    "nas_agg/integrations/timm_models.py",
    "nas_agg/loggers/mlflow_logger.py",
    "nas_agg/loggers/wandb_logger.py",
    *(f"nas_agg/study/clusters/{name}_{part}.py" for name in ("ray", "slurm") for part in ("backend", "job")),
)
#: Extras that are too large for every run of the tests.
UNTESTED = ("ray",)


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def stated(requirements: list[str]) -> dict[str, str]:
    """The bounds of requirements by normalized name."""
    found = (re.match(r"([\w.-]+)(?:\[[\w,-]*\])?(.*)", text) for text in requirements)
    return {normalized(match[1]): match[2] for match in found if match}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """The top-level packages that a module imports, and whether it does so when it is imported itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lazy = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        names = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            top = str(name).partition(".")[0]
            if top not in sys.stdlib_module_names and top not in ("nas_agg", "__future__"):
                yield top, node not in lazy


def imported(*folders: str) -> dict[str, set[bool]]:
    """Distributions that the modules of folders import, each with whether that happens at once."""
    found: dict[str, set[bool]] = {}
    for path in (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))):
        demanded = path.relative_to(ROOT).as_posix() in ON_DEMAND
        for top, at_once in imports(path):
            found.setdefault(normalized(DISTRIBUTIONS.get(top, top)), set()).add(at_once and not demanded)
    return found


REQUIRED = stated(PROJECT["dependencies"])
OPTIONAL = {name: bound for extra in USERS for name, bound in stated(EXTRAS[extra]).items()}
ALL = REQUIRED | OPTIONAL


def test_every_import_is_a_stated_dependency() -> None:
    found = imported("nas_agg", "searchers", "spaces")
    at_once = {name for name, kinds in found.items() if True in kinds}
    assert sorted(set(found) - set(ALL)) == [], "state these in pyproject.toml"
    assert sorted(at_once & (set(OPTIONAL) - set(REQUIRED))) == [], "import extras where they are asked for"
    assert sorted(set(REQUIRED) - set(found)) == [], "nothing imports these"
    examples = imported("examples")
    assert sorted(set(OPTIONAL) - set(found) - set(examples) - INDIRECT) == [], "nothing imports these extras"
    assert sorted(set(examples) - set(ALL)) == []


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_every_dependency_has_a_lower_bound_that_the_lowest_versions_install(extra: str) -> None:
    """`.ci/lowest-versions` installs the extra "test", which includes those of users."""
    for name, bound in stated(EXTRAS[extra] if extra else PROJECT["dependencies"]).items():
        assert name == "nas-agg" or re.search(r"[>~]=\d", bound) or extra == "docs", f"{name}{bound}"
    if extra in USERS and extra not in UNTESTED:
        (included,) = re.findall(r"nas-agg\[([\w,-]+)\]", " ".join(EXTRAS["test"]))
        assert extra in included.split(",")
