"""Whether streams have room on a cluster side by side, and how many cores each replica gets: settled before anything is started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import ray

from actors.cluster import RUNTIME_FILES
from actors.config import ReplicaConfig, StreamConfig
from pipeline.errors import ConfigurationError
from pipeline.snapshots.roots import is_local

_ROUNDING: Final = 1e-6
"""Of GPUs that are counted in tenths."""


def fit(configs: Sequence[StreamConfig]) -> list[StreamConfig]:
    """These streams as they run side by side on this cluster: with the cores of each replica settled.

    Raises:
        ConfigurationError: the cluster does not have what they ask for together.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    wanted = [config.replicas for config in configs]
    cores = shared_out(nodes, [(each.count, each.num_cpus, each.num_gpus) for each in wanted])
    if cores is None:
        told = ", ".join(f"{config.stream} {_wanted(config.replicas)}" for config in configs)
        raise ConfigurationError(
            f"replicas: {told} do not fit{' together' * (len(configs) > 1)}; each replica runs on one node, and there are nodes of"
            f" {', '.join(map(_told, nodes))}"
        )
    for config in configs:
        _require_root(config.snapshots.root, len(nodes))
    settled = [each.model_copy(update={"num_cpus": count}) for each, count in zip(wanted, cores, strict=True)]
    return [config.model_copy(update={"replicas": each}) for config, each in zip(configs, settled, strict=True)]


def cores_of(config: StreamConfig) -> int:
    """The cores, and so threads, of each replica of a stream that runs (`fit` has settled them)."""
    return config.replicas.num_cpus or 1


def _require_root(root: str, nodes: int) -> None:
    if is_throw_away(root):
        raise ConfigurationError(
            f"snapshots.root {root} lies in this job's own copy of its working directory, which Ray throws away: name a"
            " folder that outlives the job (an absolute path), or s3:// or gs://"
        )
    if nodes > 1 and is_local(root):
        raise ConfigurationError(f"snapshots.root {root} is one node's disk; use s3:// or gs:// on a cluster")


def shared_out(nodes: Sequence[Mapping[str, float]], wanted: Sequence[tuple[int, int | None, float]]) -> list[int] | None:
    """The cores of each replica of some streams; None where the nodes do not hold them all.

    Args:
        wanted: of each stream replicas, cores of one (None: an even share of what the others leave), and GPUs of one.

    >>> shared_out([{"CPU": 8}], [(1, 2, 0), (2, None, 0), (1, None, 0)]), shared_out([{"CPU": 3}, {"CPU": 3}], [(3, None, 0)])
    ([2, 2, 2], [1])
    >>> shared_out([{"CPU": 1}] * 8, [(1, 2, 0)]), shared_out([{"CPU": 8, "GPU": 1}], [(1, 1, 0.5), (1, 1, 1)])
    (None, None)
    """
    left = sum(node.get("CPU", 0) for node in nodes) - sum(count * cores for count, cores, _ in wanted if cores is not None)
    sharing = sum(count for count, cores, _ in wanted if cores is None)
    largest = max((int(node.get("CPU", 0)) for node in nodes), default=0)
    for share in range(max(1, min(largest, int(left // max(1, sharing)))), 0, -1):
        settled = [share if cores is None else cores for _, cores, _ in wanted]
        needs = [(cores, gpus) for (count, _, gpus), cores in zip(wanted, settled, strict=True) for _ in range(count)]
        if _have_room(nodes, needs):
            return settled
    return None


def _have_room(nodes: Sequence[Mapping[str, float]], needs: Sequence[tuple[int, float]]) -> bool:
    """Whether each replica finds its cores and GPUs on one node: the largest first, on the first node that has them left."""
    left = [[node.get("CPU", 0), node.get("GPU", 0)] for node in nodes]
    for cores, gpus in sorted(needs, key=lambda need: (need[1], need[0]), reverse=True):
        room = next((node for node in left if node[0] >= cores and node[1] >= gpus - _ROUNDING), None)
        if room is None:
            return False
        room[0] -= cores
        room[1] -= gpus
    return True


def _wanted(replicas: ReplicaConfig) -> str:
    cores = "an even share of the cores" if replicas.num_cpus is None else f"num_cpus {replicas.num_cpus}"
    return f"{replicas.count} x ({cores}, num_gpus {replicas.num_gpus:g})"


def is_throw_away(root: str) -> bool:
    """Whether a root lies where `ray job submit --working-dir` unpacks a job's files: another folder after the smallest change of one.

    >>> is_throw_away("file:///tmp/ray/session_1/runtime_resources/working_dir_files/_ray_pkg_ab12/runs/snapshots")
    True
    """
    return is_local(root) and RUNTIME_FILES in root


def _told(node: Mapping[str, float]) -> str:
    return f"{node.get('CPU', 0):g} cores and {node.get('GPU', 0):g} GPUs"
