"""A run: its folder, problems and policies, which every step of the loop uses."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import logging
from etils import epath

import restem.tasks  # noqa: F401  adds the built-in tasks
from restem import checkpoints, partitioning, verify
from restem.checkpoints.fingerprint import fingerprint
from restem.data import fingerprints, registry, sources, splits
from restem.data.chat import of_task
from restem.data.materializer import materialize
from restem.data.task import Task
from restem.errors import UserError
from restem.evaluation import contamination
from restem.records import Problem, TaskCard, problems_to_table
from restem.run import identity, lease, reader, trackers
from restem.run.layout import IterationDir, Workdir
from restem.run.problems import ProblemFile
from restem.run.settings import MeshSettings, RunSettings
from restem.runtime import distributed
from restem.runtime.progress import waiting
from restem.runtime.storage import read_json, write_table


@dataclasses.dataclass(frozen=True)
class Run:
    """A run: the base policy, the tasks and the folder of the files."""

    workdir: str
    """The run's folder; may be in a bucket."""
    settings: RunSettings
    """Settings of the run: base policy, tasks, devices."""
    tasks: Sequence[Task] = dataclasses.field(default=(), compare=False)
    """Tasks that `settings` may name besides the registered ones, as lists in memory."""
    rebuild: bool = False
    """Whether to write a lost `run.json` again."""

    def __post_init__(self):
        self.settings.require()

    @property
    def base(self) -> str:
        """Reference of the base policy."""
        return self.settings.base or ""  # `require` has checked that it is set

    @property
    def task(self) -> str:
        """Task whose training problems are sampled."""
        return self.settings.task or ""

    @property
    def method(self) -> str:
        """Name of the method in tables and figures."""
        return self.settings.method

    @property
    def seed(self) -> int:
        """Seed of all randomness in the run."""
        return self.settings.seed

    @functools.cached_property
    def files(self) -> Workdir:
        return Workdir(self.workdir)

    def directory(self, iteration: int) -> IterationDir:
        return self.files.iteration(iteration)

    @functools.cached_property
    def evaluations(self) -> tuple[str, ...]:
        """Tasks that every policy is evaluated on, with groups expanded."""
        # A name that is not a group may be known only to the host that materialised the task.
        asked = (self.task, *self.settings.evaluate_on)
        return tuple(dict.fromkeys(t for name in asked for t in registry.members(name) or [name]))

    @property
    def evaluated_sets(self) -> list[tuple[str, str, str]]:
        """(name, task, split) of every evaluation of a policy.

        Raises:
          UserError: a task has no problems in the split.
        """
        sets = [(task, task, "test") for task in self.evaluations]
        with_train = bool(self.settings.evaluate_train)
        sets += [(f"{self.task}.train", self.task, "train")] * with_train
        for _, task, split in sets:
            if not self._has(task, split):
                raise UserError(
                    f"task {task} has no {split} problems to evaluate a policy on;"
                    f" {self._remedy(task, split)}"
                )
        return sets

    def _has(self, task: str, split: str) -> bool:
        """Returns whether a task has problems in a split, as far as that is known.

        Before the problems are in the folder, as in a dry run, the task is asked. Only the host
        that materialises it needs its data, so a task that cannot be read here passes, and so does
        a damaged file, which a dry run with --repair would read again.
        """
        listed = next((t for t in self.tasks if t.name == task), None)
        try:
            if self.files.problems(task).exists():
                return bool(len(self._problems(task).split(split)))
            spec = listed.spec if listed else registry.get(task)
        except UserError:
            return True
        return spec.needs_seqio or split in spec.splits

    def _remedy(self, task: str, split: str) -> str:
        """Returns how a task gets problems of a split to evaluate on."""
        if split == "train":
            return "leave out Run.evaluate_train"
        if any(listed.name == task for listed in self.tasks):
            return "pass some: Task(test=[...])"
        if task in registry.names():
            return "add the split to its source"
        return (
            f"hold some out of the training problems with {task}/file_task.test_size, or add files"
            " of test problems (then in another --workdir)"
        )

    def open(self, settings: Any, *, loads_policy: bool = True) -> Run:
        """Materialises the tasks and claims the folder; this job then holds its lease.

        Args:
          settings: settings of the run and of all steps, which a resume must repeat.
          loads_policy: whether the job will load the base policy, which is then unpacked while the
            tasks are read.

        Raises:
          UserError: the folder holds another run, another job works in it, or the source of
            additional samples (`generate.extend`) does not suit the task.
        """
        lease.hold(self.files)
        self._forget()
        known = self._known(settings)
        self._materialize(known, loads_policy=loads_policy)
        distributed.run_on_primary("additional samples", lambda: self._check_extension(settings))
        self._claim(self._with_prompts(known))
        return self

    def _check_extension(self, settings: Any) -> None:
        check = getattr(settings.generate.extend, "check", None)
        if check is not None and not self.directory(1).generation.exists():
            check(card=self.card(), problems=self.problems("train"), verifier=self.verifier())

    def _forget(self) -> None:
        """Drops what was read of an earlier run in this folder, deleted since, in this process."""
        Run._problems.cache_clear()
        Run.problems.cache_clear()
        self.forget_policy()

    def look_into(self, settings: Any) -> Run:
        """Like `open`, but only reads the folder, also while another job works in it.

        Raises:
          UserError: the folder holds another run, or none.
        """
        identity.check(self.files, self._complete(self._with_prompts(self._known(settings))))
        return self

    def _known(self, settings: Any) -> dict[str, Any]:
        """Returns the identity of the run, as far as it is known before its problems exist."""
        return {
            "base": self.base,
            "task": self.task,
            "evaluate_on": list(self.evaluations),
            "settings": _without(_BESIDE, identity.settings_of(settings)),
            "bindings": identity.other_bindings(),
            "fingerprints": fingerprints.of_tasks(self.evaluations, self.tasks),
        }

    def _with_prompts(self, known: Mapping[str, Any]) -> dict[str, Any]:
        prompts = {task: self.card(task).prefix_sha256 for task in self.evaluations}
        return {**known, "method": self.method, "seed": self.seed, "prompts": prompts}

    def open_evaluation(self, settings: Any) -> Run:
        """Like `open`, for a stand-alone evaluation of a policy, where tasks may be added later.

        A folder evaluated under other settings is refused; the tasks do not count as settings here,
        because each evaluation has its own files.
        """
        lease.hold(self.files)
        compared = identity.settings_of(settings, only=("Run", "evaluate"))
        known = {
            "kind": "evaluation",
            "base": self.base,
            "settings": _without((*_BESIDE, "Run.evaluate_train"), compared),
            "bindings": identity.other_bindings(),
            "fingerprints": fingerprints.of_tasks(self.evaluations, self.tasks),
        }
        self._materialize(known)
        self._claim({**known, "seed": self.seed})
        return self

    def _claim(self, wanted: Mapping[str, Any]) -> None:
        wanted = self._complete(wanted)
        distributed.run_on_primary(
            "the run's identity",
            lambda: identity.claim(self.files, wanted, rebuild=self.rebuild),
        )
        identity.check(self.files, wanted)  # that the first host, whose it is, has these settings
        trackers.start(self.files, self.settings.trackers)

    def _complete(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Adds the fingerprints of the policies from outside the run, and the versions."""
        policies = {"base": self.base, "teacher": self.settings.teacher}
        found = {role: fingerprint(name) for role, name in policies.items() if name is not None}
        found |= wanted["fingerprints"]
        return {**wanted, "fingerprints": found, "versions": versions()}

    def _materialize(self, known: Mapping[str, Any], *, loads_policy: bool = True) -> None:
        def write() -> None:
            identity.reserve(self.files, {**known, "seed": self.seed})
            self.materialize(loads_policy=loads_policy)

        distributed.run_on_primary("problems", write)

    def materialize(self, *, loads_policy: bool = False) -> None:
        """Writes the problems of tasks that the folder lacks; `loads_policy` as in `open`."""
        settings = self.settings
        limits = {
            "train": settings.train_problems,
            "validation": settings.validation_problems,
            "test": settings.test_problems,
        }
        requests: dict[epath.Path, dict[str, Any]] = {}
        for task in self.evaluations:
            if not self.files.problems(task).exists():
                requests[self.files.problems(task)] = dict(
                    task=task,
                    splits=registry.SPLITS if task == self.task else ("test",),
                    data_dir=settings.data_dir,
                    limits={k: v for k, v in limits.items() if v is not None},
                    seed=self.seed,
                    chat=settings.chat,
                )
        for listed in self.tasks:
            path = self.files.problems(listed.name)
            if request := requests.pop(path, None):
                options = {k: v for k, v in request.items() if k not in ("task", "chat")}
                chat = listed.chat or (of_task(listed.name) if settings.chat else None)
                card, problems = sources.of_spec(listed.spec, chat=chat, **options)
                write_table(path, problems_to_table(problems, card))
        if requests:
            names = ", ".join(request["task"] for request in requests.values())

            def unpack() -> None:
                if loads_policy:
                    checkpoints.unpack(self.base, dtype=settings.dtype)

            with waiting(f"reading {names}"):
                materialize(requests, modules=["restem.tasks"], meanwhile=unpack)

    @functools.lru_cache(maxsize=64)  # noqa: B019  a process has one run
    def _problems(self, task: str) -> ProblemFile:
        return ProblemFile(self.files.problems(task))

    @functools.lru_cache(maxsize=64)  # noqa: B019
    def problems(self, split: str, task: str | None = None) -> Sequence[Problem]:
        """Returns the problems of a split of a task, by default of the run's own.

        Those to train on stay in their file until they are needed.
        """
        task = task or self.task
        if (split, task) == ("train", self.task) and self.settings.drop_overlapping:
            return self._clean
        found = self._problems(task).split(split)
        return found if split == "train" else list(found)

    @functools.cached_property
    def _clean(self) -> Sequence[Problem]:
        """The training problems that overlap with no test problem of the run.

        Raises:
          UserError: all of them overlap.
        """
        train: Sequence[Problem] = self._problems(self.task).split("train")
        kept = train
        before = -1
        while len(kept) != before:  # a phrase is common, and so no overlap, only while many hold it
            before = len(kept)
            for task in self.evaluations:  # each has its own form of queries
                kept = contamination.without_overlap(kept, self.problems("test", task))
        logging.info(
            "%d of %d training problems share words with a test problem and are left out",
            len(train) - len(kept), len(train),
        )  # fmt: skip
        if not kept:
            raise UserError(
                "Run.drop_overlapping leaves no training problem: all share 13 words in a row with"
                " a test problem"
            )
        return kept

    @property
    def dropped(self) -> int:
        """Number of training problems that `Run.drop_overlapping` leaves out."""
        return len(self._problems(self.task).split("train")) - len(self.problems("train"))

    def evaluated_problems(self, task: str, split: str) -> Sequence[Problem]:
        """Returns the problems to evaluate: all test problems, or `evaluate_train` training
        ones."""
        problems = self.problems(split, task)
        if split != "train":
            return problems
        return splits.subset(
            problems, self.settings.evaluate_train, key=lambda p: p.problem_id, seed=self.seed,
            salt="evaluate",
        )  # fmt: skip

    def card(self, task: str | None = None, iteration: int = 0) -> TaskCard:
        """Returns the task, with the prefix that prompts the policy of `iteration`."""
        card = self._problems(task or self.task).card
        rewritten = self.directory(iteration).prefix
        if card.task == self.task and rewritten.exists():
            card = dataclasses.replace(
                card,
                prefix=read_json(rewritten, "prefix")["prefix"],
                prompt_source=f"iteration {iteration}",
            )
        return card

    def policy(self, iteration: int, *, dtype: str | None = None):
        """Returns the policy of `iteration`; 0 is the base policy. `dtype` is as in `load`."""
        return self.load(reader.policy_reference(self.files, iteration), dtype=dtype)

    def sampler(self, iteration: int):
        """Returns the policy that writes the samples after `iteration`: its own, or the teacher."""
        if self.settings.teacher is None:
            return self.policy(iteration)
        return self.load(self.settings.teacher)

    def sampler_header(self, iteration: int):
        """Returns the policy of `sampler` without its parameters, for samples of other engines."""
        own = reader.policy_reference(self.files, iteration)
        return checkpoints.load_header(self.settings.teacher or own)

    def load(self, reference: str, *, dtype: str | None = None):
        """Returns the policy of a reference, as this run samples from it.

        Args:
          reference: reference of a policy.
          dtype: data type of its parameters; None: that of the run.
        """
        settings = self.settings
        if dtype not in (None, settings.dtype):
            self.forget_policy()  # it may be this one in the other type
        policy = load_policy(
            reference, dtype or settings.dtype, settings.compute_dtype, settings.int8_weights,
            settings.e_step_mesh,
        )  # fmt: skip
        if settings.chat and policy.vocabulary.chat_template is None:
            raise UserError(
                f"{reference}: has no chat template (chat_template.jinja, tokenizer_config.json, or"
                " tokenizer.chat_template of GGUF); use an instruct model, or Run.chat = False"
            )
        return policy

    def forget_policy(self) -> None:
        """Drops the policy that was loaded last, so that it takes memory only while it is used."""
        _loaded.clear()

    def e_step(self) -> dict[str, Any]:
        """Returns mesh and slots for sampling and evaluation, as arguments of `Rollout`."""
        mesh = self.settings.e_step_mesh
        return {"mesh": mesh and mesh.make(), "slots": self.settings.e_step_slots}

    def m_step(self) -> dict[str, Any]:
        """Returns meshes and slots for training and validation, as arguments of `Rollout`.

        Validation decodes on the mesh of the E-step, if there is one: a mesh for training splits
        weights over more devices and would gather them for every token.
        """
        mesh, sampler = self.settings.m_step_mesh, self.settings.e_step_mesh
        if mesh is None and distributed.several():
            mesh = MeshSettings()
        return {
            "mesh": mesh and mesh.make(),
            "validation_mesh": (sampler and sampler != mesh and sampler.make()) or None,
            "slots": self.settings.m_step_slots,
        }

    def verifier(self, task: str | None = None):
        grader = self.card(task or self.task).grader
        address, cluster = self.settings.program_cluster, None
        if address is not None:
            cluster = verify.Cluster(address, jax.process_count() if distributed.several() else 1)
        return verify.shared_verifier(grader, self.settings.allow_weak_sandbox, cluster)


_BESIDE = ("Run.base", "Run.task", "Run.seed", "Run.evaluate_on")
"""Settings with their own keys in `run.json`."""


def _without(names: Sequence[str], found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name not in names}


_loaded: dict[tuple[Any, ...], checkpoints.Policy] = {}
"""The policy that was loaded last, by the arguments of `_load`."""


def load_policy(*asked: Any) -> checkpoints.Policy:
    """Returns `_load(*asked)`; at most one policy is in memory, also while the next one is read."""
    if asked not in _loaded:
        _loaded.clear()
        _loaded[asked] = _load(*asked)
    return _loaded[asked]


def _load(
    reference: str,
    dtype: str,
    compute_dtype: str,
    int8_weights: bool,
    mesh: MeshSettings | None = None,
) -> checkpoints.Policy:
    places = mesh and functools.partial(partitioning.param_shardings, mesh=mesh.make())
    with waiting(f"loading {reference}"):
        policy = checkpoints.load(reference, dtype=dtype, shardings=places)
    config = policy.config.replace(dtype=compute_dtype, int8_weights=int8_weights)
    return policy.replace(config=config)


def versions() -> dict[str, str]:
    """Returns the versions of packages that affect the results of a run."""
    found = {}
    for name in ("restem", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "mpmath", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
