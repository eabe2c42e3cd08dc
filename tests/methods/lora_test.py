"""The methods of `gin/methods` select examples and train an adapter on them."""

import os
import pathlib
import shutil
import tempfile

import gin
import jax
import numpy as np
from absl.testing import absltest, parameterized

import restem
from restem import checkpoints, em, records
from restem.cli.gin_files import parse_gin
from restem.models import lora
from restem.records import Problem, Sample, TaskCard, Verdict
from restem.run import layout, reader, run
from restem.runtime import storage
from restem.steps.settings import Settings
from tests.helpers import compilation, run_files, tiny

METHODS = sorted(
    path.stem for path in (pathlib.Path(restem.__file__).parents[1] / "gin/methods").glob("*.gin")
)
# One method of each M-step: the others differ from one of these in what they select.
TRAINED = ("restem", "sft", "rwr", "trice", "reinforced_icl")
PROBLEMS = 4
SETTINGS = (
    "Run.task = 'letters'",
    "Run.validation_problems = 0",
    "em.problems_per_iteration = None",
    "improve.adapter = @Lora()",
    "Lora.rank = 2",
    "improve.epochs = 1",
    "improve.row_length = 64",
    "improve.rows_per_batch = 2",
)
OF_METHODS = {
    "distill": ("TEACHER = 'orbax:/nowhere'",),
    "reinforced_icl": ("many_shot.num_shots = 2",),
}


def setUpModule():
    os.environ["JAX_PLATFORMS"] = "cpu"
    compilation.begin()


def tearDownModule():
    compilation.end()
    gin.clear_config()


def samples(source="policy"):
    """Three samples per problem, two of them right, and the state of a chain."""
    vocabulary = tiny.vocabulary()
    made = []
    for p in range(PROBLEMS):
        for i, (text, reward) in enumerate(((f"go{p}", 1.0), (f"up{p}", 1.0), ("no", 0.0))):
            verdict = Verdict(reward, "string", text, text)
            ids = (*vocabulary.encode(text), 0)
            made.append(Sample(f"p{p}", i, text, ids, -3.0, "eos", reward, verdict, source=source))
        state = made[-3]
        made.append(
            Sample(f"p{p}", 3, state.text, state.token_ids, -3.0, "eos", 1.0, state.verdict,
                   source="chain")
        )  # fmt: skip
    return made


class LoraTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = pathlib.Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, folder)
        cls.base = tiny.save_policy(folder / "base")

    def selected(self, method):
        """Returns a run of `method` with a training set, and its settings."""
        settings = self.settings(method)
        this = run.Run(self.create_tempdir().full_path, settings.run)
        problems = [Problem(f"p{i}", "train", f"train {i}:", "1") for i in range(PROBLEMS)]
        run_files.write_problems(this.files, TaskCard("letters", max_new_tokens=8), problems)
        storage.write_json(this.files.identity, {"base": self.base})
        path = layout.shard_path(this.directory(1).samples, 0, 1)
        storage.write_table(path, records.samples_to_table(samples()))
        em.select_examples(run=this, settings=settings, iteration=1)
        return this, settings

    def settings(self, method):
        gin.clear_config()
        of_method = OF_METHODS.get(method, ())
        bindings = [f"Run.base = '{self.base}'", *SETTINGS, *of_method]
        parse_gin([f"methods/{method}.gin"], bindings)
        return Settings.from_gin()

    @parameterized.parameters(*METHODS)
    def test_selects_examples(self, method):
        this, _ = self.selected(method)
        self.assertGreater(storage.read_json(this.directory(1).selection)["kept"], 0)

    @parameterized.parameters(*TRAINED)
    def test_trains_an_adapter(self, method):
        this, settings = self.selected(method)
        em.improve_policy(run=this, settings=settings, iteration=1)
        reference = reader.policy_reference(this.files, 1)
        if method == "reinforced_icl":  # the prompt is what it changes
            self.assertEqual(reference, self.base)
            self.assertTrue(this.directory(1).prefix.exists())
            return
        policy = checkpoints.load(reference)
        self.assertEqual(policy.adapter.base, self.base)
        _, adapter = lora.detach(policy.params)
        self.assertTrue(any(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(adapter)))

    def test_the_m_step_of_every_method_is_trained(self):
        def m_step(method):
            settings = self.settings(method)
            weighted = type(settings.select.weight).__name__
            # Rewards of the samples here are 0 or 1, for which these two weights are the same.
            weighted = {"RewardWeight": "UnitWeight"}.get(weighted, weighted)
            return settings.improve.normalisation, type(settings.loop.improve), weighted

        self.assertContainsSubset(set(map(m_step, METHODS)), set(map(m_step, TRAINED)))

    def test_every_method_is_here(self):
        self.assertContainsSubset({"restem", "rest", "trice", "star", "sft"}, METHODS)


if __name__ == "__main__":
    absltest.main()
