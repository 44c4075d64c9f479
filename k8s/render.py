"""All manifests of a profile, in the order in which they can be applied, and as YAML."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from k8s.access import accounts, disruption, namespace, priorities, queues
from k8s.cluster_profile import Profile
from k8s.monitoring import monitoring
from k8s.names import Manifest
from k8s.network import policies
from k8s.raycluster import cluster
from k8s.storage import storage


def platform(profile: Profile) -> list[Manifest]:
    """What a namespace needs once, before any job: everything but jobs and served recipes."""
    found = [
        *namespace(profile),
        *priorities(),
        *accounts(profile),
        *policies(profile),
        *queues(profile),
        *storage(profile),
        *monitoring(profile),
    ]
    if profile.jobs.cluster == "shared":
        found += [*disruption(profile), cluster(profile)]
    return found


class _Dumper(yaml.SafeDumper):
    """Texts of many lines as blocks, and every shared value written out."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(documents: Iterable[Any]) -> str:
    """One YAML document each, keys as they were written."""
    return "---\n".join(
        yaml.dump(each, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True) for each in documents
    )
