"""A package that is imported later is executed at its first use, and other packages as always."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from evals.later import imported_later, is_executed


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two packages that note when they are executed."""
    for name in ("seldom_used", "often_used"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("import builtins\nbuiltins.executed.append(__name__)\nvalue = 7\n")
        (tmp_path / name / "part.py").write_text(
            "import builtins\nbuiltins.executed.append(__name__)\ndef f(): return 8\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("builtins.executed", [], raising=False)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith(("seldom_used", "often_used"))]:
        del sys.modules[name]


def test_only_use_executes(packages: Path) -> None:
    import builtins

    executed: list[str] = builtins.executed  # type: ignore[attr-defined]
    finders = list(sys.meta_path)
    with imported_later(frozenset({"seldom_used"})):
        import often_used
        import seldom_used
    assert sys.meta_path == finders
    assert executed == ["often_used"]
    assert seldom_used.value == often_used.value == 7
    assert executed == ["often_used", "seldom_used"]
    with imported_later(frozenset({"seldom_used"})):
        from seldom_used import part
    assert part.f() == 8
    assert executed == ["often_used", "seldom_used", "seldom_used.part"]


def test_of_a_package_alone_the_modules_inside_come_as_always(packages: Path) -> None:
    import builtins

    executed: list[str] = builtins.executed  # type: ignore[attr-defined]
    with imported_later(frozenset(), frozenset({"seldom_used"})):
        import seldom_used

        assert not is_executed("seldom_used")
        import seldom_used.part  # noqa: F401 - needs its package, which is executed for it
    assert executed == ["seldom_used", "seldom_used.part"]
    assert is_executed("seldom_used")
    assert not is_executed("nowhere_at_all")


def test_a_package_that_is_not_installed_is_missed_at_once() -> None:
    with imported_later(frozenset({"nowhere_at_all"})), pytest.raises(ModuleNotFoundError):
        import nowhere_at_all  # noqa: F401
