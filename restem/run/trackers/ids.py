"""The id under which Weights & Biases and MLflow know a run, in `tracker_id.json` of its folder.

The id is random, because folders of the same name on several machines, or in several clones of a
repository, hold different runs, and because the same folder may be named by several paths.
"""

from __future__ import annotations

import secrets

from restem import records
from restem.run.layout import Workdir
from restem.runtime import storage


def claim(files: Workdir, *, has_logged: bool) -> None:
    """Writes the id of a run that has none.

    Args:
      files: the run's folder; this process is the only one that logs the run's scalars.
      has_logged: whether scalars of the run were logged before. Versions that wrote no id derived
        it from the folder, and their runs continue under it.
    """
    if not files.tracker_id.exists():
        made = of_folder(files) if has_logged else f"restem-{secrets.token_hex(8)}"
        storage.write_json(files.tracker_id, {"id": made})


def of_run(files: Workdir) -> str:
    """Returns the id of a run.

    Raises:
      UserError: the file is missing or damaged.
    """
    remedy = "remove it, and the trackers show the rest of the run as a new one"
    return str(storage.read_json(files.tracker_id, "id", remedy=remedy)["id"])


def of_folder(files: Workdir) -> str:
    """Returns the id that earlier versions derived from the path of the folder."""
    return f"restem-{records.stable_key(str(files.path)):08x}"
