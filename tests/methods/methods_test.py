"""Every method runs through the one loop on a tiny policy, and leaves what it should.

All run in one process, and what is compiled is not optimised: compiling is most of the time.
"""

import math
import os
import pathlib
import shutil
import tempfile

import gin
import jax
from absl.testing import absltest, parameterized
from etils import epath

from restem import em, models, records
from restem.checkpoints import orbax
from restem.cli.gin_files import parse_gin
from restem.errors import UserError
from restem.records import Problem, TaskCard
from restem.run import identity, reader, run, shards, summary
from restem.runtime import storage
from restem.steps import select
from restem.steps.distinct import equation_set
from restem.steps.settings import Settings
from restem.training import Shape, TokenExample, Trainer, optimizers
from restem.verify import close_shared
from tests.helpers import compilation, run_files, tiny

TRAIN, VALIDATION, TEST = 6, 4, 4
STEPS = 12
FEW = {"kind": "function", "function": "tests.helpers.tiny:few_letters"}
SHARE = {"kind": "function", "function": "tests.helpers.tiny:letters_reward"}
SETTINGS = (
    "Run.task = 'letters'",
    "Run.e_step_slots = 8",
    "generate.problems_per_shard = 4",
    "adamw.learning_rate = 3e-3",
    "Run.m_step_slots = 8",
    "improve.row_length = 64",
    "improve.rows_per_batch = 4",
    "improve.patience = 9",
)


def setUpModule():
    os.environ["JAX_PLATFORMS"] = "cpu"
    compilation.begin()


def tearDownModule():
    compilation.end()
    close_shared()
    gin.clear_config()


def save_policy(folder, *, seed):
    """A policy that half knows how to answer: often letters, often an end."""
    vocabulary = tiny.vocabulary()
    data = [
        TokenExample(vocabulary.encode(f"{split} {i}:"), (*vocabulary.encode(f"go{i} up"), 0))
        for split in ("train", "test")
        for i in range(TRAIN)
    ]
    trainer = Trainer(
        tiny.config(), optimizer=optimizers.adamw(learning_rate=1e-2, total_steps=STEPS),
        shape=Shape(64, 4), batch_examples=len(data),
    )  # fmt: skip
    state = trainer.init(models.init_params(tiny.config(), jax.random.key(seed)))
    for step in trainer.fit(state, data, epochs=STEPS, seed=seed):
        state = step.state
    orbax.save(folder, state.params, tiny.config(), vocabulary)


class MethodsTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = pathlib.Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, folder)
        cls.policies = {}
        for seed, name in enumerate(("base", "teacher")):
            cls.policies[name] = f"orbax:{folder / name}"
            save_policy(folder / name, seed=seed)

    def setUp(self):
        super().setUp()
        gin.clear_config()

    def open(self, method, *bindings, grader=FEW, gold="zq{i}", workdir_name="run"):
        """A run of a method whose problems are written already: SeqIO is not asked."""
        self.folder = pathlib.Path(self.create_tempdir().full_path) / workdir_name
        parse_gin(
            [f"methods/{method}.gin"],
            [f"Run.base = '{self.policies['base']}'", *SETTINGS, *bindings],
        )
        self.settings = Settings.from_gin()
        this = run.Run(str(self.folder), self.settings.run)
        counts = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
        if self.settings.run.validation_problems is not None:
            counts["validation"] = self.settings.run.validation_problems
        problems = [
            Problem(f"{split}{i}", split, f"{split} {i}:", gold.format(i=i), None, (f"go{i} up",))
            for split, count in counts.items()
            for i in range(count)
        ]
        card = TaskCard("letters", stop=("\n",), grader=grader, max_new_tokens=8)
        run_files.write_problems(this.files, card, problems)
        return this

    def finish(self, this, iterations):
        em.em(run=this, settings=self.settings)
        found = summary.summarize(reader.read_run(this.files.path))
        self.assertEqual([e["iteration"] for e in found["iterations"]], list(range(iterations + 1)))
        for entry in found["iterations"][1:]:
            self.assertIn("train", entry)
            self.assertEqual(
                sum(entry["selection"]["buckets"].values()), entry["selection"]["sampled"]
            )
        self.assertIn("letters", found["iterations"][-1]["evals"])
        summary.table(found)
        return found

    def start(self, this, i):
        """The policy from which an iteration trained; one of the run is named by its iteration."""
        start = storage.read_json(this.directory(i).improvement)["start"]
        own = {d.path.name: f"orbax:{d.checkpoint}" for d in map(this.directory, range(1, i))}
        return own.get(start, start)

    def examples(self, this, i=1):
        return list(shards.StoredExamples(this.directory(i)))

    def samples(self, this, i=1):
        return {(s.problem_id, s.sample_index): s for s in reader.read_samples(this.directory(i))}

    @parameterized.parameters(
        ("restem", 2), ("exit", 2), ("distill", 2), ("reinforced_icl", 1),
        ("rft", None), ("star", None), ("iml", None), ("raft", None), ("rwr", None),
        ("trice", None), ("sft", None), ("rest", None), ("self_improve", None),
    )  # fmt: skip
    def test_cap(self, method, cap):
        """The method's paper decides whether the main file's cap holds; docs/methods.md says so."""
        teacher = ["TEACHER = 'hf:x'"] if method == "distill" else []
        parse_gin(["restem_demo.gin", f"methods/{method}.gin"], teacher)
        self.assertEqual(Settings.from_gin().select.cap, cap)

    def test_restem(self):
        this = self.open("restem", "em.iterations = 2", "generate.num_samples = 4")
        self.finish(this, 2)
        starts = [storage.read_json(this.directory(i).improvement)["start"] for i in (1, 2)]
        self.assertEqual(starts, [self.policies["base"]] * 2)

    def test_rest(self):
        this = self.open(
            "rest", "em.iterations = 3", "em.generate_every = 2", "generate.num_samples = 4",
            "RisingThreshold.thresholds = (0.0, 0.6)", "generate.extend = @HumanSolutions()",
            "sampling/Sampling.temperature = 1.5", "improve.epochs = 1", grader=SHARE,
        )  # fmt: skip
        self.finish(this, 3)
        self.assertFalse(this.directory(2).samples.exists())
        self.assertTrue(this.directory(3).samples.exists())
        samples = self.samples(this)
        low, high = (
            {(e.problem_id, e.sample_index) for e in self.examples(this, i)} for i in (1, 2)
        )
        self.assertLess(high, low)
        self.assertTrue(all(samples[key].reward > 0.6 for key in high))
        self.assertIn("human", {samples[key].source for key in high})
        self.assertContainsSubset(
            {f"go{i} up" for i in range(TRAIN)}, {e.targets for e in self.examples(this, 2)}
        )
        for i in (2, 3):  # from the last policy
            self.assertEqual(self.start(this, i), reader.policy_reference(this.files, i - 1))

    def test_rft(self):
        this = self.open("rft", "generate.num_samples = 6", "improve.epochs = 1")
        self.finish(this, 1)
        samples = self.samples(this)
        for problem in this.problems("train"):
            kept = [
                equation_set(samples[e.problem_id, e.sample_index])
                for e in self.examples(this)
                if e.problem_id == problem.problem_id
            ]
            self.assertLen(set(kept), len(kept))

    def test_star(self):
        # The tiny policy never gives these answers: every problem is asked again.
        this = self.open("star", grader={"kind": "exact"}).open(self.settings)
        em.generate_samples(run=this, settings=self.settings, iteration=1)
        samples = list(self.samples(this).values())
        hinted = [s for s in samples if s.source == "rationalization"]
        self.assertLen(samples, 2 * TRAIN)
        self.assertLen(hinted, TRAIN)
        for sample in hinted:
            self.assertIn(f"zq{sample.problem_id.removeprefix('train')}", sample.inputs)
        # As if each had led to the answer.
        right = [records.regraded(s, records.Verdict(1.0)) for s in samples]
        chosen = select.select(
            problems=this.problems("train"), samples=right, iteration=1, seed=0
        ).examples
        self.assertTrue({e.sample_index for e in chosen} >= {1})
        self.assertNotIn("zq", repr([e.inputs for e in chosen]))

    def test_star_end_to_end(self):
        this = self.open("star", "em.iterations = 1", "improve.epochs = 1", grader=SHARE)
        self.finish(this, 1)

    def test_iml(self):
        this = self.open(
            "iml", "em.iterations = 3", "em.problems_per_iteration = 3", "em.evaluate_every = 3",
            "generate.num_samples = 4",
        )  # fmt: skip
        found = self.finish(this, 3)
        ids = [{s.problem_id for s in reader.read_samples(this.directory(i))} for i in (1, 2)]
        self.assertEqual([len(i) for i in ids], [3, 3])
        self.assertLen(ids[0] | ids[1], TRAIN)  # an epoch
        self.assertFalse(this.directory(1).evaluation("letters").exists())
        self.assertEqual(found["chosen"], 3)
        for i in (2, 3):
            self.assertEqual(self.start(this, i), reader.policy_reference(this.files, i - 1))

    def test_a_minibatch_without_a_correct_sample_changes_nothing(self):
        this = self.open("iml", "em.iterations = 1", "generate.num_samples = 2",
                         grader={"kind": "exact"})  # fmt: skip
        self.finish(this, 1)
        self.assertEqual(reader.policy_reference(this.files, 1), self.policies["base"])

    def test_raft(self):
        this = self.open(
            "raft", "em.iterations = 1", "em.problems_per_iteration = 4",
            "generate.num_samples = 4", grader=SHARE,
        )  # fmt: skip
        self.finish(this, 1)
        self.assertBest(this, 4)

    def test_exit(self):
        this = self.open("exit", "em.iterations = 1", "generate.num_samples = 3",
                         "generate.extend = @SearchUnsolved()", "SearchUnsolved.rounds = 1",
                         "SearchUnsolved.num_samples = 2", "improve.epochs = 1",
                         grader=SHARE)  # fmt: skip
        self.finish(this, 1)
        self.assertBest(this, TRAIN)

    def assertBest(self, this, most):
        samples = self.samples(this)
        examples = self.examples(this)
        self.assertBetween(len(examples), 1, most)
        self.assertLen({e.problem_id for e in examples}, len(examples))
        for e in examples:
            best = max(
                s.reward
                for s in samples.values()
                if s.problem_id == e.problem_id and s.finish_reason != "length"
            )
            self.assertEqual(samples[e.problem_id, e.sample_index].reward, best)
            self.assertEqual(e.weight, 1.0)

    def test_rwr(self):
        this = self.open("rwr", "em.iterations = 1", "generate.num_samples = 4",
                         "ExponentialWeight.beta = 0.5", "improve.epochs = 1",
                         grader=SHARE)  # fmt: skip
        self.finish(this, 1)
        samples = self.samples(this)
        examples = self.examples(this)
        finished = [s for s in samples.values() if s.finish_reason != "length"]
        self.assertLen(examples, len(finished))
        for e in examples:
            reward = samples[e.problem_id, e.sample_index].reward
            self.assertAlmostEqual(e.weight, math.exp((reward - 1) / 0.5), places=4)

    def test_self_improve_is_the_same_whatever_the_gold(self):
        kept = []
        for gold in ("zq{i}", "another {i}"):
            this = self.open("self_improve", "generate.num_samples = 4", "improve.epochs = 1",
                             grader={"kind": "exact"}, gold=gold)  # fmt: skip
            settings = self.settings
            em.generate_samples(run=this.open(settings), settings=settings, iteration=1)
            em.select_examples(run=this, settings=settings, iteration=1)
            kept.append(self.examples(this))
            self.assertEqual({s.reward for s in reader.read_samples(this.directory(1))}, {0.0})
        self.assertNotEmpty(kept[0])
        self.assertEqual(*kept)
        self.finish(this, 1)
        self.assertEqual(storage.read_json(this.directory(1).improvement)["validation"], [])

    def test_trice(self):
        this = self.open("trice", "em.iterations = 3", "em.problems_per_iteration = 6",
                         "em.evaluate_every = 3", "generate.num_samples = 3",
                         grader={"kind": "exact"}, gold="go{i} up")  # fmt: skip
        self.finish(this, 3)
        before = {s.problem_id for s in self.samples(this, 1).values()
                  if s.reward > 0 and s.finish_reason != "length"}  # fmt: skip
        chains = [s for s in self.samples(this, 2).values() if s.source == "chain"]
        self.assertNotEmpty(before)
        self.assertEqual({s.problem_id for s in chains}, before)
        weights = [e.weight for i in (2, 3) for e in self.examples(this, i)]
        self.assertLess(min(weights), 0)
        self.assertEqual(storage.read_json(this.directory(2).improvement)["steps"], 1)

    def test_sft(self):
        this = self.open("sft", "improve.epochs = 1")
        self.finish(this, 1)
        self.assertEqual(
            [(e.targets, e.weight) for e in self.examples(this)],
            [(f"go{i} up", 1.0) for i in range(TRAIN)],
        )
        self.assertEqual(storage.read_json(this.directory(1).generation)["tokens"], 0)

    def test_sft_in_a_form_that_the_grader_does_not_read_ends_before_it_begins(self):
        this = self.open("sft", grader={"kind": "math", "extraction": "boxed"})
        with self.assertRaisesRegex(UserError, f"accepts 0 of {TRAIN} human solutions"):
            self.finish(this, 1)
        self.assertFalse(identity.has_results(this.files))

    def test_distill(self):
        teacher = f"TEACHER = '{self.policies['teacher']}'"
        settings = ("generate.num_samples = 4", "improve.epochs = 1")
        this = self.open("distill", teacher, *settings)
        self.finish(this, 1)
        sources = {s.source for s in self.samples(this).values()}
        self.assertEqual(sources, {self.policies["teacher"]})
        start = storage.read_json(this.directory(1).improvement)["start"]
        self.assertEqual(start, self.policies["base"])

    def test_reinforced_icl(self):
        this = self.open("reinforced_icl", "em.iterations = 2", "generate.num_samples = 4",
                         "many_shot.num_shots = 2",
                         "many_shot.separator = '\\n'")  # fmt: skip
        self.finish(this, 2)
        prefix = storage.read_json(this.directory(1).prefix)
        self.assertLen(prefix["shots"], 2)
        samples = self.samples(this)
        for problem_id, index in prefix["shots"]:
            self.assertGreater(samples[problem_id, index].reward, 0)
            self.assertIn(samples[problem_id, index].text.rstrip(), prefix["prefix"])
        shown = [
            storage.read_json(this.directory(i).evaluation("letters"))["prefix_sha256"]
            for i in range(3)
        ]
        self.assertEqual(shown[1], prefix["sha256"])
        self.assertLen(set(shown), 3)
        self.assertEqual(reader.policy_reference(this.files, 2), self.policies["base"])
        self.assertFalse(epath.Path(this.directory(1).checkpoint).exists())


if __name__ == "__main__":
    absltest.main()
