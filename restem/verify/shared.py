"""This process's verifiers, kept from step to step because their workers start slowly."""

from __future__ import annotations

import collections
import logging
import threading
from collections.abc import Mapping
from typing import Any

from restem.verify.cluster import Cluster, ClusterVerifier
from restem.verify.sandbox import layers
from restem.verify.verifier import Verifier

_shared: dict[str, Verifier | ClusterVerifier] = {}
_sharing = threading.Lock()


def shared_verifier(
    grader: Mapping[str, Any], allow_weak_sandbox: bool = False, cluster: Cluster | None = None
) -> Verifier | ClusterVerifier:
    """Returns this process's verifier of a grader.

    Args:
      grader: `TaskCard.grader`.
      allow_weak_sandbox: whether programs run where a machine isolates them too little.
      cluster: machines that run programs; None: this machine, which grades answers in any case.
    """
    key = repr((sorted(grader.items()), allow_weak_sandbox, cluster))
    with _sharing:
        if key not in _shared:
            _shared[key] = _start(grader, allow_weak_sandbox, cluster)
        return _shared[key]


def _start(
    grader: Mapping[str, Any], allow_weak_sandbox: bool, cluster: Cluster | None
) -> Verifier | ClusterVerifier:
    if cluster is not None and grader.get("kind") == "program":
        return ClusterVerifier(cluster, grader=grader, allow_weak_sandbox=allow_weak_sandbox)
    verifier = Verifier(grader=grader, allow_weak_sandbox=allow_weak_sandbox)
    if verifier.layers:
        for line in layers.describe(verifier.layers):
            logging.info("sandbox: %s", line)
    return verifier


def shared_counts() -> collections.Counter[str]:
    """Returns the sum of `Verifier.counts` over this process's shared verifiers."""
    with _sharing:
        return sum((collections.Counter(v.counts) for v in _shared.values()), collections.Counter())


def close_shared() -> None:
    """Ends the workers of all shared verifiers, at the end of a process."""
    with _sharing:
        while _shared:
            _shared.popitem()[1].close()
