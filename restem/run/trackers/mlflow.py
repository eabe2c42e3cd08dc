"""MLflow; MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME and the other variables of `mlflow` apply."""

from __future__ import annotations

import re
from collections.abc import Mapping

import mlflow

from restem.run.layout import Workdir

_FORBIDDEN = re.compile(r"[^\w\-. /]")
"""Characters not allowed in names of MLflow metrics, such as "@" in "pass@1"."""


class MLflow:
    """Logs scalars to one MLflow run per folder, which a resumed run continues."""

    def __init__(self, files: Workdir):
        path = str(files.path)
        escaped = path.replace("'", "''")
        # MLflow chooses the ids of its runs, so the run is found by a tag that holds the folder.
        found = mlflow.search_runs(
            filter_string=f"tags.workdir = '{escaped}'", output_format="list", max_results=1
        )
        self._run = mlflow.start_run(
            run_id=found[0].info.run_id if found else None,
            run_name=None if found else files.path.name,
            tags=None if found else {"workdir": path},
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        named = {_FORBIDDEN.sub("_at_", name): value for name, value in values.items()}
        mlflow.log_metrics(named, step=step, run_id=self._run.info.run_id)

    def close(self) -> None:
        mlflow.end_run()
