"""Settings of a machine: the file, its errors, and what comes before what."""

import pathlib
import tempfile

from absl.testing import absltest, parameterized

from launch import config as config_lib
from launch.config import Config
from restem.errors import UserError


class ConfigTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.file = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory())) / "a" / "l.toml"

    def test_what_is_written_is_read(self):
        whole = Config(
            executor="vertex", project="p", zone="us-west4-a", bucket="gs://mine/runs", gpu_count=8,
            gpu_type="a100", model='hf:gs://a "b"', capacity="spot",
        )  # fmt: skip
        config_lib.write(self.file, whole)
        self.assertEqual(config_lib.read(self.file), whole)

    def test_no_file_sets_nothing(self):
        self.assertEqual(config_lib.read(self.file), Config())

    @parameterized.parameters(
        ("project", "is not TOML"),
        ('projekt = "p"', "unknown setting 'projekt'"),
        ("project = 3", "project = 3 is no str"),
        ('gpu_count = "8"', "gpu_count = '8' is no int"),
        ("gpu_count = true", "gpu_count = True is no int"),
        ('executor = "borg"', "executor 'borg': choose one of local"),
        ('capacity = "cheap"', "choose one of on_demand"),
        ('zone = "us-west4"', "is not a zone"),
        ('bucket = "s3://x"', "is not a folder in a bucket"),
        ('data = "/data"', "is not a folder in a bucket"),
    )
    def test_a_wrong_file_is_one_line_that_names_it(self, text, message):
        self.file.parent.mkdir()
        self.file.write_text(text)
        with self.assertRaisesRegex(UserError, rf"^{self.file}.*{message}"):
            config_lib.read(self.file)

    def test_flags_come_before_the_file(self):
        kept = Config(executor="tpu_vm", project="p", chip="v5e", topology="4x4")
        self.assertEqual(Config(project="q").over(kept).project, "q")
        self.assertEqual(Config(project="q").over(kept).chip, "v5e")

    def test_an_accelerator_given_puts_the_other_kind_aside(self):
        tpu, gpu = Config(chip="v5e", topology="4x4"), Config(gpu_type="l4")
        self.assertEqual(gpu.over(tpu), gpu)
        self.assertEqual(tpu.over(gpu), tpu)

    def test_what_is_missing_is_named(self):
        with self.assertRaisesRegex(UserError, "executor=vertex needs --zone, --image"):
            Config(executor="vertex", project="p").require("project", "zone", "image")

    def test_answers_and_empty_answers(self):
        answers = {"project": "new", "bucket": "gs://mine/runs"}
        asked = []

        def prompt(question):
            asked.append(question)
            return answers.get(question.split()[0], "")

        found = config_lib.ask(Config(project="old", zone="us-west4-a"), prompt)
        self.assertEqual(found, Config(project="new", zone="us-west4-a", bucket="gs://mine/runs"))
        self.assertIn("project (Google Cloud project) [old]: ", asked)

    def test_every_setting_has_a_line_of_text(self):
        for name in Config.__dataclass_fields__:
            self.assertTrue(config_lib.help_of(name).endswith("."), name)


if __name__ == "__main__":
    absltest.main()
