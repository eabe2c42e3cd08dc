"""Every setting is described, and docs/configuration.md says what the code says."""

import pathlib

import gin
from absl.testing import absltest, parameterized

from restem.cli import reference
from restem.cli.gin_files import parse_gin
from restem.errors import UserError
from restem.run import settings

ROOT = pathlib.Path(__file__).parents[2]


class ReferenceTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        gin.clear_config()
        self.addCleanup(gin.clear_config)

    def test_the_page_is_up_to_date(self):
        page = (ROOT / "docs" / "configuration.md").read_text()
        self.assertEqual(
            page, reference.markdown(), "restem config --markdown > docs/configuration.md"
        )

    def test_everything_that_gin_can_bind_is_in_it_once(self):
        listed = [name for names in reference.GROUPS.values() for name in names]
        self.assertCountEqual(listed, reference.all_configurables())
        self.assertContainsSubset(settings.REGISTERED, listed)

    def test_every_setting_has_a_meaning_and_a_type(self):
        for configurable in reference.all_configurables().values():
            self.assertNotEmpty(configurable.summary)
            for setting in configurable.settings:
                with self.subTest(setting.name):
                    self.assertNotEmpty(setting.meaning)
                    self.assertNotEmpty(setting.allowed)

    def test_fields_and_arguments_are_read_from_the_code(self):
        (select,) = reference.named("select.cap")
        (cap,) = select.settings
        self.assertEqual((cap.name, cap.default), ("select.cap", "10"))
        self.assertEqual(cap.allowed, "a whole number, at least 1; or None")
        self.assertStartsWith(cap.meaning, "Maximum number of examples per problem, chosen at")
        (adamw,) = reference.named("adamw.clip")
        self.assertEqual(adamw.settings[0].default, "1.0")
        self.assertStartsWith(adamw.settings[0].meaning, "Largest global norm of a gradient")
        (generate,) = reference.named("generate.sampling")
        self.assertEqual(generate.settings[0].default, "@Sampling(temperature=0.7, top_k=40)")

    def test_values_are_shown_with_what_binds_them(self):
        parse_gin(["restem_demo.gin"], ["select.keep = @BestOfN()", "a/Sampling.top_k = 3"])
        shown = "\n".join(reference.lines(None))
        for line in (
            "select.cap = 2    (restem_demo.gin)",
            "Run.method = 'restem'    (methods/restem.gin)",
            "Run.seed = 0 (by %SEED)    (restem_demo.gin)",
            "select.keep = @BestOfN()    (flag)",
            "a/Sampling.top_k = 3    (flag)",
            "sampling/Sampling.top_k = 40    (methods/restem.gin)",
        ):
            self.assertIn(f"    {line}\n", shown)

    def test_a_later_flag_takes_the_place_of_a_file(self):
        parse_gin(["restem_demo.gin"], ["select.cap = 7"])
        self.assertIn("    select.cap = 7    (flag)", list(reference.lines("select.cap")))

    def test_what_has_no_value_is_told(self):
        parse_gin(["restem_math.gin"], [])
        shown = list(reference.lines("Run.base"))
        self.assertIn("    Run.base = %MODEL, which has no value    (restem_math.gin)", shown)

    def test_an_unknown_name_is_refused_with_those_near(self):
        with self.assertRaisesRegex(UserError, "no setting selct.cap; is it select.cap"):
            reference.named("selct.cap")


if __name__ == "__main__":
    absltest.main()
