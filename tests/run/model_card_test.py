"""The model card of an exported policy says what its run's files say."""

import json

from absl.testing import absltest
from etils import epath

from restem.run import layout, model_card, reader
from restem.runtime import storage
from tests.helpers import synthetic_run


class ModelCardTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.path = epath.Path(self.create_tempdir().full_path) / "run"
        synthetic_run.write_run(self.path, problems=16, tests=40, samples=4, n=0)

    def card(self, iteration: int) -> str:
        return model_card.card(reader.read_run(self.path), iteration)

    def edit(self, path, **changes):
        storage.write_json(path, {**storage.read_json(path), **changes})

    def test_results_and_training(self):
        stored = reader.read_run(self.path)
        card = self.card(2)
        base, last = (i.evaluation("arithmetic").pass1 for i in stored.iterations[::2])
        self.assertIn(f"| arithmetic | 40 | {100 * base:.1f}% (", card)
        self.assertIn(f"| {100 * last:.1f}% (", card)
        kept = [i.selection["kept"] for i in stored.iterations[1:3]]
        for i, count in enumerate(kept, 1):
            reward = stored.validation_rewards[i]
            self.assertRegex(card, rf"\n\| {i} \| 64 \| .* \| {count} \| {reward:.3f} \|\n")
        self.assertIn('\n- `em.start_from`: `"base"`\n', card)
        self.assertIn("- versions: restem 0.1.0", card)

    def test_front_matter_names_the_base_on_the_hub(self):
        front = self.card(2).split("---\n")[1]
        self.assertIn('base_model: "HuggingFaceTB/SmolLM2-135M-Instruct"\n', front)
        self.assertIn("library_name: transformers\n", front)

    def test_folders_of_this_machine_are_not_named(self):
        bindings = {"x/jsonl_task.path": "'/home/me/x.jsonl'", "adamw.learning_rate": "1e-05"}
        self.edit(self.path / "run.json", base="hf:/home/me/secret-7b/", bindings=bindings)
        card = self.card(2)
        self.assertIn("# secret-7b after 2 iterations on arithmetic", card)
        self.assertIn('`adamw.learning_rate`: `"1e-05"`', card)
        self.assertNotIn("/home", card)
        self.assertNotIn("base_model:", card)

    def test_an_iteration_that_kept_its_policy(self):
        files = layout.Workdir(self.path)
        self.assertEqual(model_card.trained_in(reader.read_run(self.path), 2), 2)
        first = reader.policy_reference(files, 1)
        self.edit(files.iteration(2).improvement, improved=False, start=first)
        self.assertEqual(model_card.trained_in(reader.read_run(self.path), 2), 1)
        self.assertIn("The policy of iteration 2 is that of iteration 1", self.card(2))
        base = json.loads((self.path / "run.json").read_text())["base"]
        self.edit(files.iteration(2).improvement, improved=False, start=base)
        self.assertEqual(model_card.trained_in(reader.read_run(self.path), 2), 0)
        self.assertIn("These are the weights of the base model: in 2 iterations", self.card(2))
        self.assertIn("before any training", self.card(0))


if __name__ == "__main__":
    absltest.main()
