"""A folder belongs to one run, and one whose run made nothing is free."""

import functools

import gin
from absl.testing import absltest
from etils import epath

from restem.cli.gin_files import parse_gin
from restem.errors import UserError
from restem.run import identity, layout
from restem.runtime import storage
from restem.steps.settings import SelectSettings, Settings
from restem.steps.strategies import BestOfN
from restem.training import optimizers

ONE = {"seed": 0, "settings": {"select.cap": 10}, "versions": {"jax": "1"}}
OTHER = {"seed": 1, "settings": {"select.cap": 4}, "versions": {"jax": "1"}}


class ClaimTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.files = layout.Workdir(epath.Path(self.create_tempdir().full_path) / "run")

    def make_something(self):
        storage.write_json(self.files.iteration(0).evaluation("t"), {"n": 1})

    def test_another_run_is_refused_with_the_differences(self):
        identity.claim(self.files, ONE)
        self.make_something()
        identity.claim(self.files, {**ONE, "versions": {"jax": "2"}, "method": "rft"})
        with self.assertRaisesRegex(UserError, r"seed was 0 and is 1; select\.cap was 10 and is 4"):
            identity.claim(self.files, OTHER)
        self.assertEqual(storage.read_json(self.files.identity)["seed"], 0)

    def test_a_setting_that_only_one_of_them_binds_makes_another_run(self):
        identity.claim(self.files, ONE)
        self.make_something()
        more = {**ONE, "settings": {**ONE["settings"], "select.max_examples": 9}}
        with self.assertRaisesRegex(UserError, r"select\.max_examples was None and is 9"):
            identity.claim(self.files, more)
        with self.assertRaisesRegex(UserError, r"select\.cap was 10 and is None"):
            identity.claim(self.files, {**ONE, "settings": {}})

    def test_other_weights_in_the_place_of_the_base_are_refused(self):
        then, now = {"base": "1" * 64, "teacher": "2" * 64}, {"base": "1" * 64, "teacher": "3" * 64}
        identity.claim(self.files, {**ONE, "fingerprints": then})
        identity.claim(self.files, {**ONE, "fingerprints": now})  # nothing was made of them yet
        self.make_something()
        message = r"teacher policy has other weights.* 3{12}\.\.\. then, 2{12}\.\.\. now"
        with self.assertRaisesRegex(UserError, message):
            identity.claim(self.files, {**ONE, "fingerprints": then})
        self.assertEqual(storage.read_json(self.files.identity)["fingerprints"], now)

    def test_weights_that_are_not_at_hand_are_not_compared(self):
        identity.claim(self.files, {**ONE, "fingerprints": {"base": None}})
        self.make_something()
        identity.claim(self.files, ONE)
        identity.claim(self.files, {**ONE, "fingerprints": {"base": "1" * 64}})
        identity.claim(self.files, {**ONE, "fingerprints": {"base": None}})
        with self.assertRaisesRegex(UserError, "base policy has other weights"):
            identity.claim(self.files, {**ONE, "fingerprints": {"base": "2" * 64}})

    def test_a_folder_whose_run_made_nothing_is_free(self):
        identity.claim(self.files, ONE)
        self.files.iteration(0).path.mkdir()
        identity.claim(self.files, OTHER)
        self.assertEqual(storage.read_json(self.files.identity)["seed"], 1)

    def test_its_problems_may_be_of_other_settings_and_go(self):
        problems = self.files.problems("t")
        identity.claim(self.files, ONE)
        storage.write_bytes(problems, b"of seed 0")
        storage.write_json(self.files.contamination, {})
        identity.reserve(self.files, {"seed": 0})
        self.assertTrue(problems.exists())
        self.assertTrue(self.files.contamination.exists())
        identity.reserve(self.files, {"seed": 1})
        self.assertFalse(problems.exists())
        self.assertFalse(self.files.contamination.exists())

    def test_problems_of_a_command_that_failed_while_reading_go(self):
        problems = self.files.problems("t")
        identity.reserve(self.files, {"seed": 0})
        storage.write_bytes(problems, b"of seed 0")  # and then, reading the next task failed
        identity.reserve(self.files, {"seed": 0})
        self.assertTrue(problems.exists())
        identity.reserve(self.files, {"seed": 1})
        self.assertFalse(problems.exists())

    def test_a_run_that_has_not_read_its_problems_is_no_run_yet(self):
        identity.reserve(self.files, ONE)
        with self.assertRaisesRegex(UserError, "no run here"):
            identity.check(self.files, ONE)
        identity.claim(self.files, ONE)
        identity.check(self.files, ONE)

    def test_what_a_run_made_is_never_discarded(self):
        identity.claim(self.files, ONE)
        self.make_something()
        problems = self.files.problems("t")
        storage.write_bytes(problems, b"of seed 0")
        with self.assertRaisesRegex(UserError, "seed was 0 and is 1"):
            identity.reserve(self.files, {"seed": 1})  # before it reads problems of its own
        identity.reserve(self.files, {"seed": 0})
        self.assertTrue(problems.exists())
        identity.check(self.files, ONE)

    def test_an_edited_task_is_read_again_until_something_is_made_of_it(self):
        of = lambda digit: {**ONE, "fingerprints": {"task mine": digit * 64}}
        problems = self.files.problems("mine")
        identity.reserve(self.files, of("1"))
        storage.write_bytes(problems, b"as it was")
        identity.reserve(self.files, of("1"))
        self.assertTrue(problems.exists())
        identity.reserve(self.files, of("2"))
        self.assertFalse(problems.exists())
        identity.claim(self.files, of("2"))
        self.make_something()
        with self.assertRaisesRegex(UserError, "task mine has other problems, another prompt or"):
            identity.reserve(self.files, of("3"))

    def test_the_module_of_a_task_may_change_once_something_is_made(self):
        of = lambda digit: {**ONE, "fingerprints": {"module of task mine": digit * 64}}
        identity.reserve(self.files, of("1"))
        storage.write_bytes(self.files.problems("mine"), b"as it was")
        identity.reserve(self.files, of("2"))
        self.assertFalse(self.files.problems("mine").exists())
        identity.claim(self.files, of("2"))
        self.make_something()
        identity.claim(self.files, of("3"))

    def test_a_setting_that_an_earlier_version_compared_may_change(self):
        settings = {**ONE["settings"], "improve.rows_per_batch": 4}
        identity.claim(self.files, {**ONE, "settings": settings})
        self.make_something()
        identity.claim(self.files, ONE)

    def test_long_values_are_compared_to_their_ends(self):
        of = lambda end: {**ONE, "bindings": {"t/file_task.template": repr("a" * 90 + end)}}
        identity.claim(self.files, of("b"))
        self.make_something()
        with self.assertRaisesRegex(UserError, r"template was \.\.\.a+b'\W+and is \.\.\.a+c'"):
            identity.claim(self.files, of("c"))
        with self.subTest("an earlier version stored the beginning"):
            cut = {"bindings": {"t/file_task.template": repr("a" * 90)[:77] + "..."}}
            storage.write_json(self.files.identity, storage.read_json(self.files.identity) | cut)
            identity.claim(self.files, of("c"))
            with self.assertRaisesRegex(UserError, "template was"):
                identity.claim(self.files, {**ONE, "bindings": {"t/file_task.template": "other"}})

    def test_problems_written_before_any_run_stay(self):
        problems = self.files.problems("t")
        storage.write_bytes(problems, b"by hand")
        identity.reserve(self.files, {"seed": 1})
        self.assertTrue(problems.exists())

    def test_iterations_without_identity_are_refused(self):
        self.make_something()
        with self.assertRaisesRegex(UserError, "no run.json"):
            identity.claim(self.files, ONE)

    def test_a_folder_of_version_0_1_is_refused_with_the_remedy(self):
        old = {"base": "b", "seed": 0, "gin": {"select.cap": "10"}, "versions": {"restem": "0.1.0"}}
        storage.write_json(self.files.identity, old)
        self.make_something()
        with self.assertRaisesRegex(UserError, r"restem 0\.1\.0.*resume it with that version, or"):
            identity.claim(self.files, ONE)

    def test_a_run_whose_prompts_were_tokenised_apart_is_refused_in_one_line(self):
        identity.claim(self.files, ONE)
        stored = storage.read_json(self.files.identity)
        self.assertEqual(stored.pop("prompt_tokens"), identity.PROMPT_TOKENS)
        storage.write_json(self.files.identity, stored)
        self.make_something()
        message = r"run\.json: this run tokenised prefix and question apart.*start anew"
        with self.assertRaisesRegex(UserError, message) as raised:
            identity.claim(self.files, ONE)
        self.assertNotIn("\n", str(raised.exception))
        self.files.iteration(0).evaluation("t").unlink()
        identity.claim(self.files, ONE)  # it has made nothing
        self.assertEqual(
            storage.read_json(self.files.identity)["prompt_tokens"], identity.PROMPT_TOKENS
        )


class SettingsOfTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        gin.clear_config()
        self.addCleanup(gin.clear_config)

    def test_what_a_resume_may_change_is_left_out(self):
        parse_gin(["restem_demo.gin"], [])
        before = identity.settings_of(Settings.from_gin()), identity.other_bindings()
        parse_gin(
            ["hardware/cpu_8.gin"],
            ["ITERATIONS = 9", "Run.data_dir = '/elsewhere'", "Run.e_step_slots = 3",
             "improve.save_every = 4", "Run.method = 'mine'", "initialize.num_processes = 1"],
        )  # fmt: skip
        after = identity.settings_of(Settings.from_gin()), identity.other_bindings()
        self.assertEqual(before, after)

    def test_what_makes_another_run_is_in_it(self):
        parse_gin(["restem_demo.gin"], [])
        before = identity.settings_of(Settings.from_gin()), identity.other_bindings()
        for binding in (
            "SEED = 4", "select.keep = @BestOfN()", "sampling/Sampling.top_k = 3",
            "adamw.learning_rate = 1e-3", "arithmetic.families = ('add',)",
            "improve.optimizer = @adafactor", "em.generate_every = 2",
        ):  # fmt: skip
            with self.subTest(binding):
                gin.clear_config()
                parse_gin(["restem_demo.gin"], [binding])
                after = identity.settings_of(Settings.from_gin()), identity.other_bindings()
                self.assertNotEqual(before, after)

    def test_a_macro_of_the_same_value_is_the_same(self):
        parse_gin([], ["select.cap = 3"])
        before = identity.settings_of(Settings.from_gin()), identity.other_bindings()
        gin.clear_config()
        parse_gin([], ["CAP = 3", "select.cap = %CAP"])
        self.assertEqual(
            before, (identity.settings_of(Settings.from_gin()), identity.other_bindings())
        )

    def test_strategies_are_their_names_and_fields(self):
        settings = Settings(select=SelectSettings(keep=BestOfN(above=0.5)))
        found = identity.settings_of(settings, only=("select",))
        self.assertEqual(found["select.keep"], {"BestOfN": {"above": 0.5}})
        self.assertEqual(found["select.weight"], {"RewardWeight": {}})
        self.assertEqual(set(found), {f"select.{n}" for n in
                         ("keep", "distinct", "cap", "weight", "max_examples")})  # fmt: skip


class PlainTest(absltest.TestCase):
    def test_arguments_bound_to_a_function_count(self):
        """Settings made in Python bind the optimizer's arguments without gin."""
        rate = lambda rate: identity.plain(functools.partial(optimizers.adamw, learning_rate=rate))
        self.assertEqual(rate(1e-5), {"adamw": {"learning_rate": 1e-5}})
        self.assertNotEqual(rate(1e-5), rate(2e-5))

    def test_functions_without_a_name_are_their_code(self):
        def made(rate):
            return lambda total_steps: optimizers.adamw(rate, total_steps=total_steps)

        found = [identity.plain(f) for f in (made(1e-5), made(2e-5), made(1e-5), lambda steps: 0)]
        self.assertEqual(found[0], found[2])
        self.assertLen(set(found), 3)


if __name__ == "__main__":
    absltest.main()
