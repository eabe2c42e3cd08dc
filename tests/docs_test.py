"""The documents are true of the tree: folders, files, links, and the width of the text."""

import pathlib
import re
import subprocess

from absl.testing import absltest

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
        self.assertEmpty(wide)


if __name__ == "__main__":
    absltest.main()
