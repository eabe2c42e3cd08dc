"""MLflow; MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME and the other variables of `mlflow` apply."""

from __future__ import annotations

import re
from collections.abc import Mapping

import mlflow

from restem.run.layout import Workdir
from restem.run.trackers import ids

_FORBIDDEN = re.compile(r"[^\w\-. /]")
"""Characters not allowed in names of MLflow metrics, such as "@" in "pass@1"."""


class MLflow:
    """Logs scalars to one MLflow run per run folder, which a resumed run continues."""

    def __init__(self, files: Workdir):
        path, run_id = str(files.path), ids.of_run(files)
        # MLflow chooses the ids of its runs, so the run is found by a tag.
        found = _search("restem_id", run_id)
        if not found and run_id == ids.of_folder(files):  # an earlier version started it
            found = _search("workdir", path)
        self._run = mlflow.start_run(
            run_id=found[0].info.run_id if found else None,
            run_name=None if found else files.path.name,
            tags={"workdir": path, "restem_id": run_id},
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        named = {_FORBIDDEN.sub("_at_", name): value for name, value in values.items()}
        mlflow.log_metrics(named, step=step, run_id=self._run.info.run_id)

    def close(self) -> None:
        mlflow.end_run()


def _search(tag: str, value: str) -> list:
    """Returns the run with a value of a tag, or an empty list."""
    escaped = value.replace("'", "''")
    return mlflow.search_runs(
        filter_string=f"tags.{tag} = '{escaped}'", output_format="list", max_results=1
    )
