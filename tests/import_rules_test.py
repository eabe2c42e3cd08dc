"""The rules of the house: who may import whom, and what must stay light."""

import ast
import pathlib
import subprocess
import sys

from absl.testing import absltest, parameterized

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "restem"

ORDER = (
    "errors", "records", "verify", "runtime", "tokenizers", "models", "partitioning", "sampling",
    "training", "checkpoints", "data", "tasks", "evaluation", "run", "rollout", "steps", "methods",
    "em", "api", "report", "plan", "cli", "__main__",
)  # fmt: skip
"""The rooms of `restem/`, lowest first: a room imports itself and the rooms before it, also inside
functions and for types alone."""

RANK = {room: rank for rank, room in enumerate(ORDER)}


def _files() -> dict[str, pathlib.Path]:
    """Every module of the package by its name; `tasks/` is installed as `restem.tasks`."""
    found = {}
    for top, prefix in ((PACKAGE, "restem"), (ROOT / "tasks", "restem.tasks")):
        for path in top.rglob("*.py"):
            parts = path.relative_to(top).with_suffix("").parts
            found[".".join((prefix, *parts)).removesuffix(".__init__")] = path
    return found


FILES = _files()


def _imports(path: pathlib.Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _modules(path: pathlib.Path) -> set[str]:
    """The modules of the package that a file imports: `a.b` of `from a.b import C`."""
    found = set()
    for name in _imports(path):
        if name in FILES:
            found.add(name)
        elif (parent := name.rpartition(".")[0]) in FILES:
            found.add(parent)
    return found


def _room(path: pathlib.Path) -> str:
    if path.is_relative_to(ROOT / "tasks"):
        return "tasks"
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def _cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one module (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            component = stack[stack.index(node) :]
            del stack[-len(component) :]
            if len(component) > 1:
                found.append(sorted(component))

    for node in graph:
        if node not in index:
            visit(node)
    return found


class ImportRulesTest(parameterized.TestCase):
    def test_every_room_has_a_rank(self):
        rooms = {_room(path) for path in FILES.values()} - {"__init__"}
        self.assertEqual(rooms, set(ORDER), "give the new room its place in ORDER")

    def test_rooms_import_only_rooms_below(self):
        wrong = []
        for name, path in FILES.items():
            for imported in _modules(path):
                room = _room(FILES[imported])
                if "__init__" in (room, _room(path)):  # the package's face may name any room
                    continue
                if RANK[room] > RANK[_room(path)]:
                    wrong.append(f"{name} imports {imported}")
        self.assertEmpty(wrong)

    def test_no_cycle_between_modules(self):
        """Not even one through an import inside a function, or for types alone."""
        graph = {name: _modules(path) - {name} for name, path in FILES.items() if name != "restem"}
        self.assertEmpty(_cycles({n: {m for m in to if m in graph} for n, to in graph.items()}))

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
        ("import restem.cli.verbs", ("matplotlib", "tensorflow", "seqio", "scipy.stats")),
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
