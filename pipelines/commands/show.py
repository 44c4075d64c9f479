"""`raymill show`, `verify` and `gc`: what a store holds, whether it is whole, and what can go."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

from cluster.artifact import Artifact, ancestors, contributors, find_artifact, list_artifacts, verify_artifact
from cluster.attempt import collect_garbage
from cluster.errors import UserError
from cluster.progress import Progress, duration, table
from cluster.store import Store, open_store
from pipelines.headlines import headline, metric_label
from pipelines.runs import RUNS, list_runs


def show(arguments: Namespace) -> int:
    """Print every artifact and run, or one artifact with its lineage down to sources and licences."""
    store = open_store(arguments.store)
    if arguments.artifact:
        run = next((each for each in list_runs(store) if each["id"] == arguments.artifact), None)
        if run:
            return _show_run(store, run, as_json=arguments.json)
        return _show_one(store, find_artifact(store, arguments.artifact), as_json=arguments.json)
    damaged: list[UserError] = []
    artifacts, runs = list_artifacts(store, damaged=damaged), list_runs(store)
    if arguments.json:
        print(json.dumps({"artifacts": [each.model_dump() for each in artifacts], "runs": runs}, indent=1))
        return 0
    rows = [
        {"artifact": each.id, "finished": str(each.provenance.get("finished", ""))[:19], "content": headline(each)}
        for each in artifacts
    ]
    print(table(rows) if rows else f"{store.url}: no artifacts yet")
    for error in damaged:
        print(f"left out: {error}")
    if runs:
        print()
        print(
            table(
                [
                    {
                        "run": run["id"],
                        "time": duration(run["seconds"]),
                        "page": store.uri(f"{RUNS}/{run['id']}/index.html"),
                    }
                    for run in runs
                ]
            )
        )
    return 0


def _show_run(store: Store, run: dict[str, Any], *, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"run": run}, indent=1))
        return 0
    page = store.uri(f"{RUNS}/{run['id']}/index.html")
    print(f"{run['id']}\n  {duration(run['seconds'])} in all; page {page}\n")
    columns = ("stage", "state", "result", "artifact_id")
    print(table([{column: stage.get(column, "") for column in columns} for stage in run["stages"]]))
    return 0


def _show_one(store: Store, artifact: Artifact, *, as_json: bool) -> int:
    lineage = list(ancestors(store, artifact))
    if as_json:
        chain = [{"depth": d, "role": role, "id": each.id if each else None} for d, role, each in lineage]
        print(json.dumps({"artifact": artifact.model_dump(), "lineage": chain}, indent=1))
        return 0
    print(f"{artifact.id}\n  fingerprint {artifact.fingerprint}\n  at {store.uri(artifact.data_prefix)}")
    made = artifact.provenance
    print(f"  made {made.get('finished')} in {duration(float(made.get('seconds', 0)))}")
    measured = {metric_label(artifact, name): value for name, value in artifact.metrics.items()}
    for title, values in (("counts", artifact.counts), ("metrics", measured)):
        if values:
            print(f"\n{title}\n{table([{'name': name, 'value': value} for name, value in values.items()])}")
    print("\nfiles")
    print(table([{"path": f.path, "bytes": f.size_bytes, "sha256": f.sha256[:12]} for f in artifact.files]))
    print("\nlineage")
    for depth, role, each in lineage:
        text = f"{each.id}  {headline(each)}" if each else "GONE: its record is not in this store"
        print(f"{'  ' * depth}{role + ': ' if role else ''}{text}")
    _print_sources(list(contributors(lineage)))
    return 0


def _print_sources(lineage: list[tuple[int, str, Artifact | None]]) -> None:
    """The sources and licences of the first corpora, the ones made from nothing else in the store."""
    roots: dict[str, Artifact] = {each.id: each for _, _, each in lineage if each and not each.inputs}
    for root in roots.values():
        sources: Any = root.identity["config"].get("sources", [])
        print(f"\nsources of {root.id}")
        for source in sources:
            print(
                "  " + ", ".join(_setting(key, value) for key, value in source.items() if value not in (None, "", []))
            )
        if root.licences:
            kept = _kept_licences(root, lineage)
            by_count = sorted(root.licences.items(), key=lambda pair: (-kept.get(pair[0], 0), -pair[1], pair[0]))
            rows = [{"licence": name, "documents read": count, "kept": kept.get(name, 0)} for name, count in by_count]
            print(f"\nlicences\n{table(rows)}")


def _kept_licences(root: Artifact, lineage: list[tuple[int, str, Artifact | None]]) -> dict[str, int]:
    """Licence -> documents that curation kept of a corpus; all of them where nothing was curated."""
    curated = [
        each
        for _, _, each in lineage
        if each and each.kind == "Corpus" and root.id in {i.id for i in each.inputs.values()}
    ]
    return curated[0].licences if curated else root.licences


def _setting(key: str, value: Any) -> str:
    """One key of a source, long lists by their length (``--json`` has them whole)."""
    return f"{len(value)} {key}" if isinstance(value, (list, dict)) else f"{key} {value}"


def verify(arguments: Namespace) -> int:
    """Re-check checksums; exit 1 where something does not match."""
    store = open_store(arguments.store)
    if not arguments.artifact and not any(store.folders()):
        raise UserError("there is nothing in this store", where=store.url, next_step="name another with --store")
    unreadable: list[UserError] = []
    chosen = [find_artifact(store, arguments.artifact)] if arguments.artifact else []
    if not chosen:
        chosen = list_artifacts(store, damaged=unreadable)
    progress = Progress()
    results = [{"artifact": error.where, "damage": [f"{error.where}: {error.what}"]} for error in unreadable]
    for artifact in chosen:
        damage = verify_artifact(store, artifact)
        results.append(
            {"artifact": artifact.id, "damage": [f"{store.uri(each.key)}: {each.problem}" for each in damage]}
        )
        progress.say(f"{artifact.id}: {'DAMAGED' if damage else f'{len(artifact.files)} files match'}")
    bad = [result for result in results if result["damage"]]
    if arguments.json:
        print(json.dumps({"verified": results}, indent=1))
    else:
        for result in bad:
            for line in result["damage"]:
                print(f"damaged: {line}")
        print(f"{len(results)} artifacts checked, {len(bad)} damaged")
    return 1 if bad else 0


def gc(arguments: Namespace) -> int:
    """Remove tries that nothing names and nobody works on; see :func:`cluster.attempt.collect_garbage`."""
    store = open_store(arguments.store)
    removed: list[dict[str, Any]] = []
    freed = collect_garbage(
        store,
        dry_run=arguments.dry_run,
        on_remove=lambda prefix, size: removed.append({"attempt": prefix, "bytes": size}),
    )
    if arguments.json:
        print(json.dumps({"removed": removed, "bytes": freed, "dry_run": arguments.dry_run}, indent=1))
        return 0
    if removed:
        print(table(removed))
    print(f"{'would free' if arguments.dry_run else 'freed'} {freed:,} bytes in {len(removed)} abandoned tries")
    return 0
