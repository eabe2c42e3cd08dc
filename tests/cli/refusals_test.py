"""Commands that are wrong by their flags alone are refused at once, in one line."""

import json
import os
import pathlib
import subprocess
import sys

from absl.testing import absltest, parameterized

from restem.cli import main

ROOT = pathlib.Path(__file__).parents[2]

REFUSED = (
    ("run", "--workdir=DIR is missing: the folder where"),
    ("improve --gin_file=restem_demo.gin", "--workdir=DIR is missing"),
    ("run --workdir=x --gin_file=restem_mth.gin", "restem_mth.gin: no such file in .*restem_math"),
    ("run --workdir=x --gin.SEED", "--gin.SEED: a gin binding is --gin.NAME=VALUE"),
    ("compare a.parquet b.parquet", "a.parquet: no such file"),
    ("compare --gin.SEED=1 a b", "--gin.SEED: `restem compare` reads no gin settings"),
    ("export --output=x --gin.MODEL=y", "--gin.MODEL: `restem export` reads no gin settings"),
    ("export --output=x", "name a policy: --policy=REFERENCE"),
    ("export --output=x --policy=hf:y --iteration=1", "name either --policy"),
    ("export --output=full --policy=hf:y", "full exists and is not an empty folder"),
    ("export --output=gs://b/x --policy=hf:y", "writes to a local folder; .*gcloud storage cp"),
    ("export --output=s3://b/x --workdir=y", "--output=s3://b/x: export writes to a local folder"),
    ("generate --workdir=x --requests=ftp://b/x", "'ftp://b/x' names no file; a bucket is gs://"),
    ("report", "which run\\?"),
    ("report nowhere", "nowhere: no such folder"),
    ("score --task=math", "which outputs\\?"),
    ("score full/a.jsonl", "--task=NAME is missing"),
    ("score full/a.jsonl --task=math", "--output=FOLDER is missing"),
    ("score b.jsonl --task=math --output=x", "b.jsonl: no such file"),
    ("score --grades=b.csv", "b.csv: no such file"),
    ("evaluate --task=math --workdir=x", "--task says what to evaluate --policy"),
    ("evaluate --policy=hf:x --task=math", "files go to DIR/evaluations"),
    ("evaluate --policy=hf:x --iteration=1 --workdir=x", "name either --policy"),
    ("generate --workdir=x --requests=a --completions=b", "name either --requests"),
    ("generate --workdir=x --completions=b.jsonl", "b.jsonl: no such file"),
)


class RefusalsTest(parameterized.TestCase):
    def test_each_in_one_line_without_jax(self):
        folder = pathlib.Path(self.create_tempdir().full_path)
        (folder / "full").mkdir()
        (folder / "full/a.jsonl").write_text("{}\n")
        code = (
            "import contextlib, io, json, sys\nfrom restem.cli import main\nfound = []\n"
            "for command in json.load(sys.stdin):\n"
            "    with contextlib.redirect_stderr(io.StringIO()) as shown:\n"
            "        code = main.main(command.split())\n"
            "    found.append((code, shown.getvalue(), 'jax' in sys.modules))\n"
            "print(json.dumps(found))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True,
            input=json.dumps([command for command, _ in REFUSED]),
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)
        for (command, message), found in zip(REFUSED, json.loads(done.stdout), strict=True):
            with self.subTest(command):
                code, shown, imported = found
                self.assertEqual(code, 2)
                self.assertRegex(shown, f"^restem: .*{message}.*\n$")
                self.assertEqual(shown.count("\n"), 1)
                self.assertFalse(imported)

    @parameterized.parameters(*main.VERBS)
    def test_help_shows_defaults_that_hold(self, verb):
        command = next(a for a in main.parser()._actions if a.dest == "verb").choices[verb]
        self.assertNotIn("(default:", command.format_help())

    @parameterized.parameters(
        ("plan", "workdir", False), ("config", "dry_run", False), ("export", "gin_file", False),
        ("select", "allow_weak_sandbox", False), ("compare", "workdir", False),
        ("doctor", "gin_file", True), ("doctor", "dry_run", False), ("run", "iteration", False),
        ("plan", "dry_run", True), ("improve", "allow_weak_sandbox", True),
        ("score", "gin_file", True), ("select", "repair", True), ("export", "repair", False),
    )  # fmt: skip
    def test_a_verb_lists_only_flags_that_it_reads(self, verb, flag, reads):
        command = next(a for a in main.parser()._actions if a.dest == "verb").choices[verb]
        self.assertEqual(f"--{flag}" in command.format_help(), reads)


if __name__ == "__main__":
    absltest.main()
