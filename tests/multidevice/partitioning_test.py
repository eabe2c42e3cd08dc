"""Sharding on 8 simulated devices.

The number of simulated devices is fixed when JAX starts, so the cases live in
`partitioning_on_8_devices.py` (layouts) and `steps_on_8_devices.py` (sampler and trainer), which
run in processes of their own.
"""

import ast
import os
import pathlib
import subprocess
import sys
from xml.etree import ElementTree

import jax
import numpy as np
from absl.testing import absltest, parameterized

from restem import models, partitioning

HERE = pathlib.Path(__file__).parent


def _tests_in(path):
    """Names of the test methods that a file defines; parameters add to their names."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return [
        node.name
        for node in nodes
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test")
    ]


class PartitioningTest(parameterized.TestCase):
    @parameterized.parameters("partitioning_on_8_devices.py", "steps_on_8_devices.py")
    def test_cases_on_8_devices(self, file):
        env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
        results = pathlib.Path(self.create_tempdir().full_path) / "results.xml"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={results}",
             str(HERE / file)],
            capture_output=True,
            text=True,
            env=env,
            timeout=1200,
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stdout[-8000:] + done.stderr[-2000:])
        cases = list(ElementTree.parse(results).iter("testcase"))
        for name in _tests_in(HERE / file):
            ran = [case for case in cases if case.get("name").startswith(name)]
            self.assertNotEmpty(ran, f"{name} did not run")
            for case in ran:
                self.assertIsNone(case.find("skipped"), f"{case.get('name')} was skipped")

    def test_one_device_needs_no_hardware_file(self):
        mesh = partitioning.make_mesh(devices=jax.devices()[:1])
        config = models.ModelConfig(
            vocab_size=7, num_layers=1, embed_dim=6, num_heads=3, num_kv_heads=1, head_dim=2,
            mlp_dim=5,
        )  # fmt: skip
        params = models.init_params(config, jax.random.key(0))
        placed = jax.device_put(params, partitioning.param_shardings(config, mesh))
        with partitioning.use(mesh):
            out = models.forward(placed, config, np.ones((1, 2), np.int32), np.arange(2)[None])
        plain = models.forward(params, config, np.ones((1, 2), np.int32), np.arange(2)[None])
        np.testing.assert_allclose(out.hidden, plain.hidden, rtol=1e-6)


if __name__ == "__main__":
    absltest.main()
