"""What a command on a run would do: its settings, and the next step."""

from __future__ import annotations

from restem import checkpoints, em
from restem.data import registry
from restem.errors import UserError
from restem.run import identity
from restem.run.run import Run
from restem.runtime.progress import say
from restem.steps.settings import Settings


def show(this: Run, settings: Settings, step: str | None = None) -> int:
    """Shows a run's settings, and what is done and to do; loads no model and samples nothing.

    Args:
      this: the run.
      settings: its settings.
      step: the one step that the command takes; None: all that are not done, as `restem run` does.

    Raises:
      UserError: a task is unknown, cannot be read, or has no test problems to evaluate on.
    """
    _check_tasks(this)
    step = step or _next_step(this, settings)
    say(f"base policy   {this.base}")
    say(f"task          {this.task}; evaluated on {', '.join(this.evaluations)}")
    say(f"folder        {this.files.path}")
    say(f"iterations    {settings.loop.iterations}; next: {step}")
    say("settings that stay the same for all of a run:")
    shown = identity.settings_of(settings) | identity.other_bindings()
    for name, value in sorted(shown.items()):
        say(f"  {name} = {value}")
    say("settings that may change when it is resumed:")
    for name, value in sorted(identity.settings_of(settings, changeable=True).items()):
        say(f"  {name} = {value}")
    try:
        checkpoints.load_header(this.base)
    except UserError as error:  # another machine may have it
        say(f"warning: the base policy cannot be read here: {error}")
    say("dry run: nothing was written")
    return 0


def _check_tasks(this: Run) -> None:
    """Raises `UserError` if a task is unknown, or its files cannot be read."""
    listed = {task.name for task in this.tasks}
    for name in (this.task, *this.settings.evaluate_on):
        if name in listed or registry.members(name) or this.files.problems(name).exists():
            continue
        registry.get(name)


def _next_step(this: Run, settings: Settings) -> str:
    """Returns the step of `restem run` that would be taken first."""
    loop = settings.loop
    for i in range(loop.iterations + 1):
        directory = this.directory(i)
        steps = {}
        if i and em.generated_at(i, settings) == i:
            steps["generate"] = directory.generation.exists()
        if i:
            steps["select"] = directory.selection.exists()
            steps["improve"] = directory.improvement.exists()
        if i % loop.evaluate_every == 0 or i == loop.iterations:
            evaluated = (directory.evaluation(name).exists() for name, _, _ in this.evaluated_sets)
            steps["evaluate"] = all(evaluated)
        for step, is_done in steps.items():
            if not is_done:
                return f"{step} (iteration {i})" if i else "evaluate the base policy"
    return "nothing, all is done"
