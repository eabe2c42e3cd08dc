"""Files of a run for tests, written by the code that writes them in a real run."""

from collections.abc import Sequence

from restem.records import Problem, TaskCard, problems_to_table
from restem.run.layout import Workdir
from restem.runtime import storage


def write_problems(files: Workdir, card: TaskCard, problems: Sequence[Problem]) -> None:
    """Writes `problems/TASK.parquet` as the materialisation of a task does, without SeqIO."""
    storage.write_table(files.problems(card.task), problems_to_table(problems, card))
