"""The rules of the house: who may import whom, and what must stay light."""

import ast
import pathlib
import subprocess
import sys

from absl.testing import absltest, parameterized

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "restem"

# Lower rooms first; a room imports only rooms of lower or equal rank.
RANKS = {
    "errors": 0, "records": 0, "metrics": 0, "progress": 0, "compilation": 0,
    "verify": 1, "models": 1, "data": 1, "distributed": 1, "coordination": 0,
    "preemption": 0, "workdir": 1, "profiles": 1, "tasks": 1,
    "partitioning": 2,
    "sampling": 3, "training": 3, "checkpoints": 3, "prompts": 3,
    "generate": 4, "select": 4, "improve": 4, "evaluate": 4, "export": 4, "plan": 4,
    "planning": 4, "report": 4, "reporting": 4, "run": 4, "summary": 4, "methods": 4,
    "comparisons": 4, "completions": 4, "grading_sheet": 4, "groups": 4,
    "em": 5,
    "verbs": 6, "main": 6, "__main__": 6,
}  # fmt: skip


def _imports(path: pathlib.Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _room(path: pathlib.Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


class ImportRulesTest(parameterized.TestCase):
    def test_every_room_has_a_rank(self):
        rooms = {_room(p) for p in PACKAGE.rglob("*.py")} - {"__init__"}
        self.assertEmpty(rooms - set(RANKS), "give the new room a rank in this test")

    def test_rooms_import_only_rooms_below(self):
        wrong = []
        for path in PACKAGE.rglob("*.py"):
            room = _room(path)
            if room == "__init__":
                continue
            for name in _imports(path):
                parts = name.split(".")
                if parts[0] != "restem" or len(parts) < 2 or parts[1] not in RANKS:
                    continue
                if RANKS[parts[1]] > RANKS[room]:
                    wrong.append(f"{path.relative_to(ROOT)} imports {name}")
        self.assertEmpty(wrong)

    @parameterized.parameters(
        (("verify",), ("jax", "flax", "tensorflow", "seqio")),
        (
            ("models", "sampling", "training", "checkpoints", "partitioning", "verify"),
            ("tensorflow", "seqio", "torch", "transformers", "tensorflow_datasets"),
        ),
    )
    def test_rooms_stay_free_of(self, rooms, forbidden):
        wrong = []
        for path in PACKAGE.rglob("*.py"):
            if _room(path) in rooms:
                for name in _imports(path):
                    if name.split(".")[0] in forbidden:
                        wrong.append(f"{path.relative_to(ROOT)} imports {name}")
        self.assertEmpty(wrong)

    def test_only_models_imports_linen(self):
        wrong = [
            str(path.relative_to(ROOT))
            for path in PACKAGE.rglob("*.py")
            if _room(path) != "models"
            and any(n.startswith(("flax.linen", "flax.nnx")) for n in _imports(path))
        ]
        self.assertEmpty(wrong)

    @parameterized.parameters(
        ("import restem", ("jax", "numpy", "tensorflow", "pyarrow")),
        ("import restem.verify", ("jax", "tensorflow", "pyarrow")),
        (
            "import restem.models, restem.sampling, restem.training, restem.checkpoints, restem.em",
            ("tensorflow", "seqio", "torch", "transformers"),
        ),
    )
    def test_importing_stays_light(self, statement, forbidden):
        program = f"{statement}\nimport sys\nprint(*sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
        )
        self.assertEmpty(set(forbidden) & set(done.stdout.split()))

    def test_gin_is_no_package(self):
        self.assertFalse((ROOT / "gin" / "__init__.py").exists(), "it would shadow gin-config")


if __name__ == "__main__":
    absltest.main()
