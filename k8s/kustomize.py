"""The shipped profiles as kustomize folders: what all have in ``base``, what differs in an overlay for each.

For teams whose tools read files from a repository. They are rendered (``python -m k8s.kustomize``), not written by
hand, and a test builds them and compares with what ``raymill manifests`` prints.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from k8s.cluster_profile import load_profile, shipped
from k8s.names import Manifest
from k8s.render import platform, to_yaml

ROOT = Path(__file__).parent
HEADER = "# Rendered by `python -m k8s.kustomize`; change the profile or the renderer, not this file.\n"
BASE_NAMESPACE = "raymill"
Key = tuple[str, str]


def files() -> dict[str, str]:
    """Path below this package -> content."""
    profiles = {name: _by_key(platform(load_profile(name))) for name in shipped()}
    places = {name: load_profile(name).namespace for name in profiles}
    # Cluster-wide kinds that kustomize does not know would be moved into a namespace: it is given one where it must.
    base = _common([profiles[name] for name in sorted(profiles, key=lambda name: places[name] != BASE_NAMESPACE)])
    found = _folder("base", {"all.yaml": list(base.values())}, {})
    for name, wanted in profiles.items():
        place = places[name]
        own = [each for key, each in wanted.items() if key not in base]
        patches = {key: _patch(_moved(base[key], place), wanted[key]) for key in base}
        moved = {"namespace": place} if place != BASE_NAMESPACE else {}
        extra = {**moved, "patches": [_entry(key, patch) for key, patch in patches.items() if patch]}
        found |= _folder(f"overlays/{name}", {"own.yaml": own}, extra, ["../../base"])
    return found


def write(root: Path = ROOT) -> None:
    """Write the folders."""
    for path, text in files().items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")


def _folder(
    place: str, contents: Mapping[str, list[Manifest]], extra: Mapping[str, Any], above: list[str] | None = None
) -> dict[str, str]:
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [*(above or []), *contents],
        **{key: value for key, value in extra.items() if value},
    }
    found = {f"{place}/kustomization.yaml": HEADER + to_yaml([kustomization])}
    return found | {f"{place}/{name}": HEADER + to_yaml(manifests) for name, manifests in contents.items()}


def _by_key(manifests: list[Manifest]) -> dict[Key, Manifest]:
    return {(each["kind"], each["metadata"]["name"]): each for each in manifests}


def _common(profiles: list[dict[Key, Manifest]]) -> dict[Key, Manifest]:
    """What every profile has, as the first one has it; the namespace itself is each profile's own."""
    first = profiles[0]
    everywhere = [key for key in first if key[0] != "Namespace" and all(key in each for each in profiles)]
    return {key: _moved(first[key], BASE_NAMESPACE) for key in everywhere}


def _moved(manifest: Manifest, namespace: str) -> Manifest:
    """The same object in another namespace, as kustomize moves it: what names the namespace elsewhere stays."""
    found: Manifest = json.loads(json.dumps(manifest))
    if "namespace" in found["metadata"]:
        found["metadata"]["namespace"] = namespace
    return found


def _patch(have: Manifest, want: Manifest) -> list[Manifest]:
    """JSON patch (RFC 6902) from one object to another, by their fields and the fields of ``spec`` and ``metadata``."""
    found: list[Manifest] = []
    for key in sorted(have.keys() | want.keys()):
        if key in ("spec", "metadata") and key in have and key in want:
            found += _fields(have[key], want[key], f"/{key}")
        else:
            found += _fields({key: have[key]} if key in have else {}, {key: want[key]} if key in want else {}, "")
    return found


def _fields(have: Manifest, want: Manifest, at: str) -> list[Manifest]:
    found: list[Manifest] = []
    for key in sorted(have.keys() | want.keys()):
        path = f"{at}/{key.replace('~', '~0').replace('/', '~1')}"
        if key not in want:
            found.append({"op": "remove", "path": path})
        elif have.get(key) != want[key]:
            found.append({"op": "replace" if key in have else "add", "path": path, "value": want[key]})
    return found


def _entry(key: Key, patch: list[Manifest]) -> Manifest:
    return {"target": {"kind": key[0], "name": key[1]}, "patch": to_yaml([patch])}


if __name__ == "__main__":
    write()
