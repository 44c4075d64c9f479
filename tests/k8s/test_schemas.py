"""Every manifest satisfies the strict schema of its kind and the rules that schemas miss, whatever the options."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from k8s.cluster_profile import Profile, load_profile
from k8s.rules import check

Manifest = dict[str, Any]
Render = Callable[[Profile], list[Manifest]]
Matrix = list[tuple[str, Profile]]


def faults(matrix: Matrix, render: Render, schema_errors: Callable[[Manifest], list[str]]) -> list[str]:
    """Everything that is wrong with any manifest; equal ones are looked at once."""
    found: list[str] = []
    seen: set[str] = set()
    for name, profile in matrix:
        manifests = render(profile)
        found += [f"{name}: {each}" for each in check(manifests, profile.feature_gates)]
        for manifest in manifests:
            if (text := repr(manifest)) not in seen:
                seen.add(text)
                found += [f"{name}: {manifest['kind']}: {error}" for error in schema_errors(manifest)]
    return found


@pytest.mark.anchor
def test_a_sample_with_every_pair_of_options_is_valid(
    sample: Matrix, render: Render, schema_errors: Callable[[Manifest], list[str]]
) -> None:
    assert 10 < len(sample) < 60
    assert faults(sample, render, schema_errors) == []


@pytest.mark.anchor
@pytest.mark.slow
def test_every_combination_is_valid(
    matrix: Matrix, render: Render, schema_errors: Callable[[Manifest], list[str]]
) -> None:
    assert len(matrix) == 2 * 3 * 3 * 2 * 2 * 3 * 2 * 2
    assert faults(matrix, render, schema_errors) == []


@pytest.mark.anchor
def test_the_schemas_are_strict(render: Render, schema_errors: Callable[[Manifest], list[str]]) -> None:
    """A slip of the pen is refused in each kind: otherwise the tests above prove nothing."""
    for manifest in render(load_profile("gpu")):
        wrong = copy.deepcopy(manifest)
        wrong["spce"] = {}
        assert schema_errors(wrong), manifest["kind"]


def test_objects_have_names_of_their_own(sample: Matrix, render: Render) -> None:
    for name, profile in sample:
        keys = [(each["kind"], each["metadata"]["name"]) for each in render(profile)]
        assert len(set(keys)) == len(keys), name


def test_everything_stands_in_the_namespace(sample: Matrix, render: Render) -> None:
    without = {"Namespace", "PriorityClass", "WorkloadPriorityClass"}
    for _, profile in sample:
        for manifest in render(profile):
            place = manifest["metadata"].get("namespace")
            assert place == (None if manifest["kind"] in without else profile.namespace), manifest["kind"]


def test_what_is_named_exists(sample: Matrix, render: Render) -> None:
    """Priorities, accounts, claims and ConfigMaps of pods are rendered, or exist by the profile's word."""
    for name, profile in sample:
        manifests = render(profile)
        there = {(each["kind"], each["metadata"]["name"]) for each in manifests}
        given = {("PersistentVolumeClaim", profile.claim.name)} if profile.claim else set()
        text = [pod for manifest in manifests for pod in pods(manifest)]
        for pod in text:
            wanted = {("PriorityClass", pod["priorityClassName"])} if "priorityClassName" in pod else set()
            wanted |= {("ServiceAccount", pod["serviceAccountName"])} if "serviceAccountName" in pod else set()
            for volume in pod.get("volumes", []):
                if "configMap" in volume:
                    wanted.add(("ConfigMap", volume["configMap"]["name"]))
                if "persistentVolumeClaim" in volume:
                    wanted.add(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
            assert wanted <= there | given, name


def pods(value: Any) -> list[Manifest]:
    """The specifications of all pods below a value."""
    if isinstance(value, dict):
        own = [value] if "containers" in value else []
        return own + [pod for item in value.values() for pod in pods(item)]
    if isinstance(value, list):
        return [pod for item in value for pod in pods(item)]
    return []
