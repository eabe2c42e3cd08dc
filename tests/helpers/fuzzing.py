"""Random command lines, gin values, gin files and damaged files of a run, each from its number.

Every command that is made here must end with the exit code 0 or 2, the latter with one line, and
none with a traceback. None samples or trains: what could would have nothing wrong with it.
"""

from __future__ import annotations

import contextlib
import io
import pathlib
import random
import shutil
from collections.abc import Iterator, Sequence
from unittest import mock

import gin

from restem.cli import gin_files, main, reference
from restem.report import drawing
from restem.run import reader, summary
from tests.helpers import synthetic_run

WORDS = (
    "", " ", "a", "0", "-1", "1", "2.5", "1e999", "nan", "-inf", "None", "True", "[]", "()", "{}",
    "(1,)", "[None]", "'", '"', "'a", "@", "@Nothing", "@Sampling()", "@adamw", "@BestOfN()", "%",
    "%SEED", "%NOTHING", "a.b", "a/b.c", "../x", "/dev/null", "/proc/x", "/", "~", "gs://",
    "hf:", "orbax:/nowhere", "\u202e", "\ud800", "\0", "é", "日本語", "\n", "a\nb", "=", "==", "--",
    "-", "(" * 300, "[" * 5000, "9" * 5000, "x" * 5000, "math", "arithmetic", "base", "last",
    "restem_demo.gin", "restem_math.gin", "1 if True else 2", "__import__('os')", "{'a': 1}",
    "{'kind': 'program'}", "('a', 3)", "0x10", "1_000", "-0.0", "1e-400", "b'x'", "...", "1+1",
)  # fmt: skip
"""Values for flags and bindings."""

FLAGS = (
    "--workdir", "--gin_file", "--iteration", "--dry_run", "--quiet", "--repair", "--profile",
    "--allow_weak_sandbox", "--policy", "--task", "--output", "--split", "--grades", "--labels",
    "--no_texts", "--adapter", "--json", "--markdown", "--nothing", "-h",
)  # fmt: skip

STEPS = ("run", "generate", "select", "improve", "evaluate", "verify")


class Fuzzer:
    """Makes and runs commands in a folder of its own."""

    def __init__(self, folder: pathlib.Path, seed: int = 0):
        """Writes a run's folder, whose files are then damaged."""
        self.folder = folder
        self.seed = seed
        self.run = folder / "run"
        synthetic_run.write_run(
            self.run, skills=(-0.8, 0.5), problems=6, samples=4, tests=4, n=4, transfer=()
        )
        self.settings = [
            s.name for c in reference.all_configurables().values() for s in c.settings
        ] + ["SEED", "MODEL", "ITERATIONS", "nothing.at_all", "e_step/make_mesh.data", "x"]
        package = pathlib.Path(gin_files.__file__).parents[2] / "gin"
        self.gin_texts = [p.read_text() for p in sorted(package.rglob("*.gin"))]
        self.files = sorted(p for p in self.run.rglob("*") if p.is_file())

    def command(self, number: int) -> list[str]:
        """Returns the command of a number, after writing the files that it reads."""
        rng = random.Random(f"{self.seed}/{number}")
        kinds = (self.flags, self.binding, self.binding, self.gin_file, self.damaged_run,
                 self.data_file)  # fmt: skip
        return rng.choice(kinds)(rng)

    def flags(self, rng: random.Random) -> list[str]:
        """Any verb with any flags."""
        verb = rng.choice([*set(main.VERBS) - {"doctor", "init", "plan", "report"}, "", "runn"])
        argv = [verb]
        for _ in range(rng.randrange(6)):
            flag, word = rng.choice(FLAGS), rng.choice(WORDS)
            argv += rng.choice([[flag], [flag, word], [f"{flag}={word}"], [word]])
        return argv + (["--dry_run"] if verb in STEPS else [])

    def binding(self, rng: random.Random) -> list[str]:
        """A run whose settings have any values."""
        argv = ["run", "--gin_file=restem_demo.gin", f"--workdir={self.folder}/new", "--dry_run"]
        for _ in range(rng.choice((1, 1, 2, 4))):
            name = rng.choice(self.settings)
            if rng.random() < 0.1:
                name = self.changed(rng, name.encode()).decode(errors="surrogateescape")
            argv.append(f"--gin.{name}={self.value(rng)}")
        return argv

    def value(self, rng: random.Random, depth: int = 0) -> str:
        """A value as a shell passes it."""
        kind = rng.randrange(6 if depth < 3 else 4)
        if kind < 3:
            return rng.choice(WORDS)
        if kind == 3:
            return repr(
                rng.choice((rng.randint(-9, 9), rng.uniform(-2, 2), 10 ** rng.randint(0, 30)))
            )
        parts = [self.value(rng, depth + 1) for _ in range(rng.randrange(3))]
        return rng.choice(("({})", "[{}]", "({},)")).format(", ".join(parts))

    def gin_file(self, rng: random.Random) -> list[str]:
        """A run with a gin file that someone has damaged."""
        path = self.folder / "fuzzed.gin"
        data = rng.choice(self.gin_texts).encode()
        for _ in range(rng.randint(1, 4)):
            data = self.changed(rng, data)
        path.write_bytes(data)
        return ["run", f"--gin_file={path}", f"--workdir={self.folder}/new", "--dry_run"]

    def damaged_run(self, rng: random.Random) -> list[str]:
        """A run's folder with one damaged file, which is repaired, reported or compared."""
        copy = self.folder / "damaged"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.run, copy)
        path = copy / rng.choice(self.files).relative_to(self.run)
        path.write_bytes(self.changed(rng, path.read_bytes()))
        answers = sorted(copy.rglob("evals/*.parquet"))
        return rng.choice((
            ["run", "--gin_file=restem_demo.gin", f"--workdir={copy}", "--repair", "--dry_run"],
            ["report", str(copy)],
            ["compare", *map(str, rng.choices(answers, k=2))],
        ))  # fmt: skip

    def data_file(self, rng: random.Random) -> list[str]:
        """Outputs or a grading sheet to score."""
        rows = {
            "jsonl": b'{"problem_id": "a", "output": "1"}\n{"query": "b", "outputs": ["1", "2"]}\n',
            "json": b'[{"problem_id": "a", "output": "1"}]',
            "jsonl.gz": b"\x1f\x8b\x08\x00" + bytes(20),
            "csv": b"task,problem_id,points,max_points\nt,a,1,2\nt,b,0,2\n",
        }
        ending = rng.choice(list(rows))
        path = self.folder / f"data.{ending}"
        data = rows[ending]
        for _ in range(rng.randint(1, 4)):
            data = self.changed(rng, data)
        path.write_bytes(data)
        if ending == "csv":
            return ["score", f"--grades={path}", f"--output={self.folder}/scores"]
        return ["score", str(path), "--task=nothing", f"--output={self.folder}/scores"]

    def changed(self, rng: random.Random, data: bytes) -> bytes:
        """Returns data with one change."""
        a = rng.randrange(len(data) + 1)
        b = min(len(data), a + rng.choice((1, 1, 4, 40)))
        kind = rng.randrange(7)
        if kind == 0:
            return data[:a] + data[b:]
        if kind == 1:
            return data[:a]
        if kind == 2:
            return data[:a] + rng.randbytes(b - a) + data[b:]
        if kind == 3:
            return data[:a] + data[a:b] * 3 + data[b:]
        if kind == 4:
            word = rng.choice(WORDS).encode(errors="surrogatepass")
            return data[:a] + word + data[b:]
        if kind == 5:
            return rng.choice((b"", b"[]", b"{}", b"null", b"\xff\xfe", b"PAR1", bytes(len(data))))
        bit = 1 << rng.randrange(8)
        return data[:a] + bytes(byte ^ bit for byte in data[a : a + 1]) + data[a + 1 :]

    def failure(self, argv: Sequence[str]) -> str | None:
        """Runs a command; returns what is wrong with how it ends, None if nothing is."""
        gin.clear_config()
        output, errors = io.StringIO(), io.StringIO()
        try:
            with (
                contextlib.redirect_stdout(output),
                contextlib.redirect_stderr(errors),
                self.without_figures(),
            ):
                code = main.main(list(argv))
        except SystemExit as end:  # --help
            code = end.code
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        finally:
            gin.clear_config()
        lines = errors.getvalue().splitlines()
        if code == 2:
            is_one_line = len(lines) == 1 and lines[0].startswith("restem: ")
            return None if is_one_line else f"not one line: {errors.getvalue()!r}"
        return None if code == 0 else f"exit code {code}: {errors.getvalue()!r}"

    @staticmethod
    @contextlib.contextmanager
    def without_figures() -> Iterator[None]:
        """Leaves out the drawing, which takes seconds; all files are read nevertheless."""

        def read(runs, *_):
            for run in runs:
                summary.summarize(reader.read_run(run.files.path))
            return [], []

        with (
            mock.patch.object(drawing, "draw_sections", read),
            mock.patch.object(drawing, "draw_hero", lambda runs: None),
        ):
            yield
