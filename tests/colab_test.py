"""The notebooks, cell by cell, on a run with a tiny policy."""

import contextlib
import importlib.util
import io
import json
import os
import pathlib
import re
import shutil
import tempfile
import unittest
import warnings
from unittest import mock

import jax
import matplotlib
import numpy as np
from absl.testing import absltest, parameterized

from restem import checkpoints
from restem.checkpoints import orbax
from restem.models import lora
from restem.models.lora import Lora
from restem.run import layout
from restem.runtime import storage
from restem.steps import adaptation
from tests.helpers import synthetic_run, tiny

COLAB = pathlib.Path(__file__).parents[1] / "colab"
NOTEBOOKS = ("browse_samples.ipynb", "inspect_checkpoint.ipynb")


def execute(name: str, **environment: str) -> tuple[dict, str]:
    """Runs the code cells of a notebook in one namespace; returns it and what was printed."""
    namespace: dict = {"__name__": "__main__"}
    output = io.StringIO()
    with (
        mock.patch.dict(os.environ, environment),
        contextlib.redirect_stdout(output),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "FigureCanvasAgg is non-interactive")
        for number, cell in enumerate(json.loads((COLAB / name).read_text())["cells"]):
            source = "".join(cell["source"])
            if cell["cell_type"] == "code":
                exec(compile(source, f"{name}, cell {number}", "exec"), namespace)
    return namespace, output.getvalue()


class NotebookFileTest(parameterized.TestCase):
    @parameterized.parameters(*NOTEBOOKS)
    def test_stores_the_outputs_of_one_execution(self, name):
        notebook = json.loads((COLAB / name).read_text())
        self.assertEqual((notebook["nbformat"], notebook["nbformat_minor"]), (4, 5))
        identifiers = [cell["id"] for cell in notebook["cells"]]
        self.assertLen(set(identifiers), len(identifiers))
        code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        self.assertEqual([c["execution_count"] for c in code], list(range(1, len(code) + 1)))
        kinds = [output["output_type"] for cell in code for output in cell["outputs"]]
        self.assertContainsSubset({"stream", "display_data"}, kinds)
        self.assertNotIn("error", kinds)
        self.assertLess((COLAB / name).stat().st_size, 500_000)

    def test_the_stored_gain_is_that_of_the_readme(self):
        """Both show `make demo` with seed 0."""
        stored = (COLAB / "browse_samples.ipynb").read_text()
        gain = re.search(r"test problems: ([+-][\d.]+) points", stored)[1]
        self.assertIn(f" {gain}, p <", (COLAB.parent / "README.md").read_text())

    @parameterized.parameters(*NOTEBOOKS)
    def test_stores_no_path_of_a_machine(self, name):
        self.assertNotRegex((COLAB / name).read_text(), r"[\s:\"]/(tmp|home|root|work|Users)/")

    @parameterized.parameters(*NOTEBOOKS)
    def test_the_readme_names_it(self, name):
        self.assertIn(f"(colab/{name})", (COLAB.parent / "README.md").read_text())
        self.assertIn("colab-badge.svg", (COLAB / name).read_text())


@unittest.skipUnless(importlib.util.find_spec("pandas"), "the notebooks use pandas: not installed")
class NotebookRunTest(absltest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        matplotlib.use("Agg")
        folder = pathlib.Path(cls.enter_context(tempfile.TemporaryDirectory()))
        cls.run_folder = folder / "run"
        synthetic_run.write_run(
            cls.run_folder, skills=(-0.8, 0.5), problems=8, samples=4, tests=12, n=0, transfer=()
        )
        files = layout.Workdir(cls.run_folder)
        identity = storage.read_json(files.identity) | {"base": tiny.save_policy(folder / "base")}
        storage.write_json(files.identity, identity)
        directory = files.iteration(1)
        tiny.save_policy(directory.checkpoint, seed=1)
        report = storage.read_json(directory.improvement) | {"improved": True}
        storage.write_json(directory.improvement, report)

    def tearDown(self):
        import matplotlib.pyplot as plt

        plt.close("all")
        super().tearDown()

    def test_browse_samples(self):
        names, output = execute("browse_samples.ipynb", RESTEM_WORKDIR=str(self.run_folder))
        samples = names["samples"]
        self.assertLen(samples, 8 * 4)
        selection = storage.read_json(layout.Workdir(self.run_folder).iteration(1).selection)
        self.assertEqual(int((samples.outcome == "kept").sum()), selection["kept"])
        self.assertEqual(int(names["outcomes"].to_numpy().sum()), 8 * 4)
        self.assertIn("32 samples of 8 problems", output)
        self.assertIn("12 test problems:", output)
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            names["show"](1, outcome="kept", iteration=1)
        self.assertIn(f"{selection['kept']} samples match", shown.getvalue())
        self.assertIn("Problem:", shown.getvalue())

    def test_browse_samples_of_a_run_that_has_none(self):
        folder = pathlib.Path(self.create_tempdir().full_path, "run")
        shutil.copytree(self.run_folder, folder)
        shutil.rmtree(folder / "iteration_001")
        with self.assertRaisesRegex(SystemExit, "run has no samples yet"):
            execute("browse_samples.ipynb", RESTEM_WORKDIR=str(folder))

    def test_browse_samples_of_a_run_whose_base_is_not_evaluated(self):
        folder = pathlib.Path(self.create_tempdir().full_path, "run")
        shutil.copytree(self.run_folder, folder)
        shutil.rmtree(folder / "iteration_000")
        _, output = execute("browse_samples.ipynb", RESTEM_WORKDIR=str(folder))
        self.assertIn("are not both evaluated yet", output)

    def test_inspect_checkpoint(self):
        names, output = execute("inspect_checkpoint.ipynb", RESTEM_WORKDIR=str(self.run_folder))
        self.assertEqual(list(names["policies"]), [0, 1])
        self.assertEqual(names["tree"].loc["embedding", "shape"], (264, 32))
        change = names["change"]
        self.assertLen(change, 2)  # layers
        # Two random policies differ everywhere but in their norms, which begin at one.
        self.assertTrue((change["attention/query"] > 0.5).all())
        self.assertTrue((change["mlp_norm"] == 0).all())
        self.assertGreater(names["divergence"].min(), 0)
        for i in (0, 1):
            self.assertIn(f"-- iteration {i}, sample 0", output)
        self.assertIn("examples of", output)

    def test_inspect_the_checkpoint_of_an_adapter(self):
        form = Lora(rank=2, base_dtype="int8")  # both forms of a matrix that is no array
        folder = pathlib.Path(self.create_tempdir().full_path, "run")
        shutil.copytree(self.run_folder, folder)
        files = layout.Workdir(folder)
        base = checkpoints.load(storage.read_json(files.identity)["base"])
        start = adaptation.starting_policy(base, form)
        adapter = lora.init(start.params, form, jax.random.key(0))
        adapter = jax.tree.map(lambda x: x + 0.1, adapter)  # b begins at zero
        checkpoint = files.iteration(1).checkpoint
        checkpoint.rmtree()
        orbax.save(checkpoint, adapter, start.config, start.vocabulary, adapter=start.adapter)
        names, output = execute("inspect_checkpoint.ipynb", RESTEM_WORKDIR=str(folder))
        change = names["change"]
        self.assertTrue((change["attention/query"] > 0.1).all())
        self.assertTrue((change["mlp_norm"] == 0).all())
        self.assertEqual(names["tree"].loc["layers/attention/query", "dtype"], "float32")
        adapted = checkpoints.load(f"orbax:{checkpoint}").logits(names["tokens"])
        np.testing.assert_allclose(names["after"].logits(names["tokens"]), adapted, atol=1e-4)
        self.assertIn("-- iteration 1, sample 0", output)


if __name__ == "__main__":
    absltest.main()
