"""Bad settings end in one line that names the setting, before anything is loaded or written."""

import contextlib
import io
import pathlib

import gin
from absl.testing import absltest, parameterized

from restem.cli.main import main

# (flag without its dashes, what the message has to say)
BAD = (
    # Out of range.
    ("gin.generate.num_samples=-1", "generate.num_samples = -1: must be a whole number, at lea"),
    ("gin.generate.max_new_tokens=0", "generate.max_new_tokens = 0: must be a whole number, at le"),
    ("gin.generate.problems_per_shard=0", "generate.problems_per_shard = 0: .* at least 1"),
    ("gin.em.iterations=0", "at least 1"),
    ("gin.em.generate_every=0", "em.generate_every = 0: must be a whole number, at least 1"),
    ("gin.em.evaluate_every=0", "em.evaluate_every = 0: must be a whole number, at least 1"),
    ("gin.em.problems_per_iteration=0", "em.problems_per_iteration = 0: .* or None"),
    ("gin.select.cap=0", "select.cap = 0: must be a whole number, at least 1; or None"),
    ("gin.select.max_examples=-4", "select.max_examples = -4"),
    ("gin.improve.epochs=0", "improve.epochs = 0: must be a whole number, at least 1"),
    ("gin.improve.batch_examples=0", "improve.batch_examples = 0"),
    ("gin.improve.rows_per_batch=0", "improve.rows_per_batch = 0"),
    ("gin.improve.row_length=-1", "improve.row_length = -1"),
    ("gin.improve.validate_every=0", "improve.validate_every = 0"),
    ("gin.improve.save_every=-1", "improve.save_every = -1"),
    ("gin.improve.patience=0", "improve.patience = 0"),
    ("gin.evaluate.num_samples=-1", "evaluate.num_samples = -1"),
    ("gin.Run.train_problems=0", "Run.train_problems = 0: must be a whole number, at least 1"),
    ("gin.Run.validation_problems=-1", "Run.validation_problems = -1"),
    ("gin.Run.evaluate_train=-2", "Run.evaluate_train = -2"),
    ("gin.Run.e_step_slots=0", "at least 1"),
    ("gin.sampling/Sampling.temperature=-1", "generate.sampling.*temperature=-1 is not 0 or more"),
    ("gin.sampling/Sampling.top_k=-1", "generate.sampling.*top_k=-1"),
    ("gin.sampling/Sampling.top_p=0.0", "generate.sampling.*top_p"),
    # Of another type.
    ("gin.generate.num_samples=abc", "generate.num_samples = 'abc': must be a whole number"),
    ("gin.generate.num_samples=2.5", "generate.num_samples = 2.5: must be a whole number"),
    ("gin.generate.num_samples=True", "generate.num_samples = True: must be a whole number"),
    ("gin.generate.num_samples=None", "generate.num_samples = None: must be a whole number"),
    ("gin.generate.sampling=0.7", "generate.sampling = 0.7: must be a reference @NAME.. to a Sam"),
    ("gin.generate.extend=HumanSolutions", "generate.extend = 'HumanSolutions': must be a referen"),
    ("gin.select.cap=ten", "select.cap = 'ten'"),
    ("gin.select.keep=3", "select.keep = 3: must be a reference @NAME.. to a Keep"),
    ("gin.select.weight=reward", "select.weight = 'reward'"),
    ("gin.em.iterations=[3]", r"= \[3\]"),
    ("gin.Run.base=7", "Run.base = 7: must be a string"),
    ("gin.Run.task=('a','a')", r"Run.task = \('a', 'a'\): must be a string"),
    ("gin.Run.evaluate_on=3.7", "Run.evaluate_on = 3.7: must be a string or a tuple"),
    ("gin.Run.evaluate_on=('math',3)", "Run.evaluate_on"),
    ("gin.Run.seed=0.5", "= 0.5: must be a whole number"),
    ("gin.SEED=one", "Run.seed = 'one': must be a whole number"),
    ("gin.Run.int8_weights=1", "Run.int8_weights = 1: must be True or False"),
    ("gin.Run.e_step_mesh=8", "Run.e_step_mesh = 8: must be a reference @NAME.. to a Mes"),
    ("gin.improve.optimizer=adamw", "improve.optimizer = 'adamw': must be a reference such as @N"),
    ("gin.improve.skip_empty=no", "improve.skip_empty = 'no': must be True or False"),
    ("gin.improve.param_dtype=[None]", r"improve.param_dtype = \[None\]"),
    ("gin.adamw.learning_rate=fast", "adamw.learning_rate = 'fast': must be a finite number"),
    ("gin.adamw.clip=off", "adamw.clip = 'off'"),
    ("gin.sampling/Sampling.temperature=hot", "sampling/Sampling.temperature = 'hot'"),
    ("gin.initialize.num_processes=two", "initialize.num_processes = 'two'"),
    # None of the names that there are.
    ("gin.select.distinct=texts", 'one of "none", "text", "equations"'),
    ("gin.em.start_from=first", 'em.start_from = .first.: must be one of "base", "last"'),
    ("gin.Run.dtype=float16", "Run.dtype = 'float16': must be one of"),
    ("gin.Run.compute_dtype=int8", "Run.compute_dtype"),
    ("gin.improve.param_dtype=float64", "improve.param_dtype = 'float64'"),
    ("gin.improve.normalisation=mean", "improve.normalisation = 'mean': must be one of"),
    ("gin.improve.remat=all", "improve.remat = 'all'"),
    ("gin.adamw.schedule=step", "adamw.schedule = 'step': must be one of"),
    ("gin.select.kap=3", "kap"),
    ("gin.selekt.cap=3", "selekt"),
    # References that cannot be followed.
    ("gin.select.keep=@Nothing()", "Nothing"),
    ("gin.select.cap=%NOT_BOUND", "the macro %NOT_BOUND has no value; add --gin.NOT_BOUND=VALUE"),
    ("gin.Run.base=%NOT_BOUND", "the macro %NOT_BOUND has no value"),
    ("gin.improve.optimizer=@adamw()", "improve.optimizer = @adamw"),
    # Values of the strategies themselves.
    ("gin_file=methods/rest.gin --gin.RisingThreshold.thresholds=(0.5,0.1)", "select.keep.*falls"),
    ("gin_file=methods/rest.gin --gin.RisingThreshold.thresholds=()", "select.keep.*is empty"),
    ("gin_file=methods/rwr.gin --gin.ExponentialWeight.beta=0.0", "ExponentialWeight.beta = 0.0: "
     "must be a finite number, greater than 0"),
    ("gin_file=methods/self_improve.gin --gin.MajorityAnswer.min_share=2", "from 0 to 1"),
    ("gin_file=methods/star.gin --gin.Rationalization.num_samples=0", "Rationalization.num_sample"),
    ("gin_file=methods/reinforced_icl.gin --gin.many_shot.num_shots=0", "many_shot.num_shots = 0"),
    ("gin_file=methods/distill.gin", "no teacher is named: --gin.TEACHER="),
    ("gin_file=hardware/v5e_8.gin --gin.m_step/make_mesh.fsdp=0", "make_mesh.fsdp = 0"),
    ("gin_file=hardware/v5e_8.gin --gin.e_step/make_mesh.data=many", "make_mesh.data = 'many'"),
    ("gin_file=restem_math.gin", "no base policy is named: --gin.MODEL="),
    ("gin_file=restem_mth.gin", "restem_math.gin"),
)  # fmt: skip


class BadSettingsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        gin.clear_config()
        self.addCleanup(gin.clear_config)
        self.workdir = pathlib.Path(self.create_tempdir().full_path) / "run"

    def refused(self, verb, *flags):
        """What the command prints, which has to be one line, with nothing written."""
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors):
            code = main([verb, f"--workdir={self.workdir}", *flags])
        self.assertEqual(code, 2, errors.getvalue())
        lines = errors.getvalue().splitlines()
        self.assertLen(lines, 1)
        self.assertStartsWith(lines[0], "restem: ")
        self.assertFalse(self.workdir.exists())
        return lines[0]

    @parameterized.parameters(*BAD)
    def test_run_and_its_dry_run_refuse(self, flags, message):
        flags = [f if f.startswith("--") else f"--{f}" for f in flags.split(" ")]
        lines = []
        for extra in ([], ["--dry_run"]):
            gin.clear_config()
            lines.append(self.refused("run", "--gin_file=restem_demo.gin", *flags, *extra))
        self.assertRegex(lines[0], message)
        self.assertEqual(*lines)

    @parameterized.parameters("generate", "verify", "select", "improve", "evaluate")
    def test_every_step_refuses(self, verb):
        flags = ("--gin_file=restem_demo.gin", "--gin.improve.epochs=-1")
        self.assertIn("improve.epochs = -1", self.refused(verb, *flags))


if __name__ == "__main__":
    absltest.main()
