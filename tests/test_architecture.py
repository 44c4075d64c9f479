"""The rules of the house: imports point one way, and describing work loads nothing heavy."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("cluster", "pipelines", "evals", "serving", "k8s")
KNOWS_ALL = {f"pipelines/{name}.py" for name in ("lifecycle", "graph", "recipe", "cli", "servable")}
ON_DEPLOYMENTS = {
    f"pipelines/commands/{name}.py" for name in ("deployment", "keys", "rollout", "scale", "status", "undeploy")
}
"""Commands on what is served: they may know `serving`, and nothing of models, training or evaluation."""
ON_EVALUATIONS = {
    f"pipelines/commands/{name}.py" for name in ("benchmarks", "compare", "eval", "gate", "judge", "review")
}
"""Commands on what was measured: they may know `evals`, and nothing of serving."""
ON_KUBERNETES = {f"pipelines/commands/{name}.py" for name in ("kubernetes", "manifests", "bundle", "new_profile")}
"""Commands that render, ask or write profiles: they may know `k8s`."""
HEAVY = ("torch", "ray", "vllm", "transformers", "datasets", "pyarrow", "numpy", "peft", "lm_eval", "boto3")
LIGHT_MODULES = (
    "pipelines.cli",
    "pipelines.recipe",
    "pipelines.graph",
    "pipelines.plan",
    "pipelines.lifecycle",
    "pipelines.job",
    "pipelines.submission",
    "pipelines.commands.cluster",
    "pipelines.commands.jobs",
    "pipelines.commands.submit",
    "pipelines.commands.new",
    "pipelines.commands.run",
    "pipelines.commands.show",
    "pipelines.commands.tune",
    "pipelines.tune.results",
    "pipelines.commands.serve",
    "pipelines.commands.eval",
    "pipelines.commands.compare",
    "pipelines.commands.gate",
    "pipelines.commands.judge",
    "pipelines.commands.review",
    "pipelines.commands.keys",
    "pipelines.commands.rollout",
    "pipelines.commands.scale",
    "pipelines.commands.undeploy",
    "pipelines.commands.kubernetes",
    "pipelines.commands.manifests",
    "k8s.cluster_profile",
    "k8s.rules",
    "serving.access.rate",
    "serving.control.operations",
    "serving.control.status",
    "evals.config",
    "serving.config",
    "serving.rollout.config",
)


def imports_of(path: Path) -> set[str]:
    """The top-level packages that a file imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def modules() -> list[str]:
    return [
        path.relative_to(ROOT).as_posix() for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))
    ]


def allowed_in(module: str) -> set[str]:
    """Which of our packages a module may import."""
    allowed = {module.partition("/")[0], "cluster"}
    if module in KNOWS_ALL:
        allowed |= set(PACKAGES)
    if module in ON_DEPLOYMENTS:
        allowed |= {"serving"}
    if module in ON_EVALUATIONS:
        allowed |= {"evals"}
    if module in ON_KUBERNETES:
        allowed |= {"k8s"}
    return allowed


def test_imports_point_one_way() -> None:
    wrong = {each: (imports_of(ROOT / each) & set(PACKAGES)) - allowed_in(each) for each in modules()}
    assert {module: names for module, names in wrong.items() if names} == {}


def test_the_rule_can_fail(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from serving.control.deploy import deploy\n", encoding="utf-8")
    assert imports_of(bad) == {"serving"}


def test_importing_loads_nothing_heavy() -> None:
    """In one process: what a module loads is what is new after it."""
    code = (
        "import importlib, json, sys\nloaded = {}\n"
        f"for module in {LIGHT_MODULES!r}:\n"
        f"    before = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "    importlib.import_module(module)\n"
        f"    new = [name for name in {HEAVY!r} if name in sys.modules and name not in before]\n"
        "    if new:\n        loaded[module] = new\n"
        "print(json.dumps(loaded))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert json.loads(result.stdout) == {}


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom pipelines.cli import run_command\n"
        "try:\n    run_command(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print('HEAVY', *[name for name in {HEAVY!r} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.splitlines()[-1] == "HEAVY"
    assert "plan" in result.stdout


def test_plan_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pipelines.cli import run_command\n"
        "assert run_command(['plan', 'demo.yaml']) == 0\n"
        "print('HEAVY', *[name for name in ('torch', 'ray', 'vllm', 'transformers') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert result.stdout.splitlines()[-1] == "HEAVY"


def test_no_module_is_named_like_one_of_the_standard_library() -> None:
    tops = {Path(module).stem for module in modules() if module.count("/") == 1}
    assert not tops & (set(sys.stdlib_module_names) - {"__init__"})


def test_files_stay_small() -> None:
    long = {module: n for module in modules() if (n := (ROOT / module).read_text(encoding="utf-8").count("\n")) > 450}
    assert long == {}
