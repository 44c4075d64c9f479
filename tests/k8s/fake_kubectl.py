#!/usr/bin/env python3
"""A stand-in for kubectl and the cluster behind it: objects are files in FAKE_KUBE; every call is written down.

``becomes.json`` is the status of every RayJob that is applied.
``FAKE_KUBE/<kind>s/<name>.json`` is an object. Where ``<name>.next.json`` holds a list, each ``get`` of the object
gives it the next status of the list. ``refuse.txt`` is what every call fails with.
"""

import json
import os
import sys
from pathlib import Path

ROOT = Path(os.environ["FAKE_KUBE"])


def main() -> int:
    words = [word for word in sys.argv[1:] if not word.startswith(("--namespace", "--context", "--output"))]
    with (ROOT / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps(sys.argv[1:]) + "\n")
    refuse = ROOT / "refuse.txt"
    if refuse.exists():
        text = refuse.read_text()
        sys.stderr.write(text)
        if "once" in text:
            refuse.unlink()
        return 1
    verb, rest = words[0], words[1:]
    options = dict(word.lstrip("-").partition("=")[::2] for word in rest if word.startswith("--"))
    names = [word for word in rest if not word.startswith("--")]
    if verb == "apply":
        sys.path.append(os.environ["FAKE_KUBE_PACKAGES"])  # started without them, which is faster
        import yaml

        for document in yaml.safe_load_all(sys.stdin):
            place = ROOT / f"{document['kind'].lower()}s"
            place.mkdir(exist_ok=True)
            fate = ROOT / "becomes.json"
            if document["kind"] == "RayJob" and fate.exists():
                document["status"] = json.loads(fate.read_text())
            (place / f"{document['metadata']['name']}.json").write_text(json.dumps(document))
            print(f"{document['kind'].lower()}/{document['metadata']['name']} serverside-applied")
    elif verb == "get" and "raw" in options:
        path = ROOT / "raw" / names[0].strip("/").replace("/", "_")
        if path.with_suffix(".away").exists():
            sys.stderr.write("Error from server (ServiceUnavailable): the server is currently unable to handle it\n")
            return 1
        if not path.exists():
            sys.stderr.write("Error from server (NotFound): the server could not find the requested resource\n")
            return 1
        print(path.read_text())
    elif verb == "get" and len(names) == 2 and any("go-template" in word for word in sys.argv):
        path = ROOT / names[0] / f"{names[1]}.json"
        if not path.exists():
            sys.stderr.write(f'Error from server (NotFound): secrets "{names[1]}" not found\n')
            return 1
        print("\n".join(json.loads(path.read_text())["data"]))
    elif verb == "get" and len(names) == 2:
        path = ROOT / names[0].partition(".")[0] / f"{names[1]}.json"
        if path.exists():
            print(json.dumps(advance(path)))
    elif verb == "get":
        found = [
            json.loads(path.read_text())
            for path in sorted((ROOT / names[0].partition(".")[0]).glob("*.json"))
            if not path.name.endswith(".next.json")
        ]
        key, _, value = options.get("selector", "").partition("=")
        print(
            json.dumps(
                {"items": [each for each in found if not key or each["metadata"].get("labels", {}).get(key) == value]}
            )
        )
    elif verb == "delete":
        path = ROOT / names[0].partition(".")[0] / f"{names[1]}.json"
        if path.exists():
            path.unlink()
            print(f"{names[0]}/{names[1]}")
    elif verb == "logs":
        text = (ROOT / "log.txt").read_text() if (ROOT / "log.txt").exists() else ""
        if "follow" in options:
            since = options.get("since-time", "")
            # The first connection breaks in the middle; as the real one, a time is inclusive.
            lines = [line for line in text.splitlines() if line.split(" ")[0] >= since]
            print("\n".join(lines if since else lines[: len(lines) // 2 + 1]))
        else:
            print(text, end="")
    return 0


def advance(path: Path) -> dict:
    found = json.loads(path.read_text())
    queue = path.with_suffix(".next.json")
    if queue.exists() and (states := json.loads(queue.read_text())):
        found["status"] = states[0]
        path.write_text(json.dumps(found))
        queue.write_text(json.dumps(states[1:] or states))
    return found


if __name__ == "__main__":
    sys.exit(main())
