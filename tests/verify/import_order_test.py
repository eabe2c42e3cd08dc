"""The rooms inside `restem/verify/` have an order, and none imports a room above it."""

import ast
import pathlib

from absl.testing import absltest

VERIFY = pathlib.Path(__file__).parents[2] / "restem" / "verify"

ORDER = (
    ("pool",), ("sandbox",), ("answers",), ("programs",), ("math_answer", "math_equivalence"),
    ("rewards",), ("graders",), ("grading",), ("verifier",), ("cluster",), ("shared",),
    ("__init__",),
)  # fmt: skip
"""Rooms and modules, lowest first."""
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}


def room(path: pathlib.Path) -> str:
    return path.relative_to(VERIFY).with_suffix("").parts[0]


def imports(path: pathlib.Path) -> set[str]:
    """Names of `restem.verify` that a file imports or names in a string, lazily or not."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {node.value} if " " not in node.value else set()
    return {name for name in found if name.startswith("restem.verify.")}


class ImportOrderTest(absltest.TestCase):
    def test_every_room_has_a_rank(self):
        self.assertEqual({room(path) for path in VERIFY.rglob("*.py")}, set(RANK))

    def test_rooms_import_only_rooms_below(self):
        wrong = []
        for path in VERIFY.rglob("*.py"):
            for name in imports(path):
                above = RANK.get(name.split(".")[2], len(ORDER) - 1)
                if above > RANK[room(path)]:
                    wrong.append(f"{path.relative_to(VERIFY)} imports {name}")
        self.assertEmpty(wrong)


if __name__ == "__main__":
    absltest.main()
