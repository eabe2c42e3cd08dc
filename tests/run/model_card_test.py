"""The model card of an exported policy says what its run's files say."""

import json

from absl.testing import absltest
from etils import epath

from restem.errors import UserError
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

    def test_a_gain_of_a_rewritten_prompt_is_not_one_of_the_weights(self):
        files = layout.Workdir(self.path)
        base = storage.read_json(files.identity, "base")["base"]
        for i in (1, 2):
            self.edit(files.iteration(i).improvement, improved=False, start=base)
        prefix = "Q: ```1 + 1```?\nA: 2\n\n"
        storage.write_json(files.iteration(2).prefix, {"prefix": prefix, "sha256": "", "shots": []})
        self.assertNotIn("## Prompt", self.card(1))
        card = self.card(2)
        self.assertIn("These are the weights of the base model.", card)
        self.assertIn("rewrote only the few-shot prompt of the task `arithmetic`", card)
        self.assertNotIn("no training raised", card)
        self.assertIn("`iteration_002/prefix.json`", card)
        self.assertIn(f"\n````text\n{prefix.strip()}\n````\n", card)

    def procedure(self, **settings) -> str:
        self.edit(self.path / "run.json", settings=settings)
        return " ".join(self.card(2).split("## Results")[0].split())

    def test_the_procedure_is_that_of_the_run(self):
        self.assertIn(
            "in each iteration, a policy samples solutions, a program verifies them, and a policy"
            " is fine-tuned on those that were kept.",
            self.procedure(),
        )
        self.assertIn("every 3 iterations, a policy samples", self.procedure(**{
            "em.generate_every": 3}))  # fmt: skip
        self.assertIn("human solutions are added", self.procedure(**{
            "generate.extend": {"HumanSolutions": {"max_per_problem": None}}}))  # fmt: skip

    def test_a_teacher(self):
        self.assertIn("a teacher model samples", self.procedure(**{"Run.teacher": "hf:/home/t"}))
        card = self.card(2)
        self.assertIn("| iteration | samples of the teacher | correct |", card)
        self.assertNotIn("/home", card)

    def test_without_gold_answers(self):
        blind = {"generate.grading": {"WithoutGold": {"placeholder": "0"}}}
        found = self.procedure(**blind, **{"select.keep": {"MajorityAnswer": {"min_share": 0.0}}})
        self.assertIn("on those with the most frequent answer to their problem. No gold", found)
        self.assertNotIn("verifies", found)
        self.assertIn("| iteration | samples | examples | validation reward |", self.card(2))
        other = self.procedure(**{"generate.grading": {"Mine": {}}})
        self.assertNotIn("verifies", other)
        self.assertNotIn("gold", other)

    def test_negative_weights(self):
        selection = layout.Workdir(self.path).iteration(2).selection
        self.edit(selection, weights={"min": -0.2, "max": 1.0, "mean": 0.5})
        self.assertIn("with negative weights for some that failed", self.card(2))
        self.assertNotIn("negative", self.card(1))

    def test_human_solutions(self):
        path = self.path.parent / "sft"
        small = {"problems": 16, "tests": 20, "samples": 1, "n": 0}
        synthetic_run.write_run(path, method="sft", skills=(-0.8, 0.2), **small)
        card = model_card.card(reader.read_run(path), 1)
        self.assertIn("it was fine-tuned on human solutions of the training problems.", card)
        self.assertNotIn("samples", card.split("## Settings")[0])
        self.assertRegex(card, r"\n\| 1 \| 16 \| 16 \| \d+ \| ")

    def test_entries_that_are_missing(self):
        files = layout.Workdir(self.path)
        storage.write_json(files.iteration(2).evaluation("arithmetic"), {"pass@1": 0.5})
        self.edit(self.path / "run.json", bindings=None, versions=[])
        self.assertRegex(self.card(2), r"\| arithmetic \|  \| [^|]+ \| 50.0% \| [^|]+ \|\n")
        storage.write_json(files.iteration(1).selection, {"sampled": 64})
        with self.assertRaisesRegex(UserError, "selection.json: lacks correct, problems_solved"):
            self.card(2)


if __name__ == "__main__":
    absltest.main()
