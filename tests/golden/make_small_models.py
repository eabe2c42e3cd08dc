"""Makes small_models.npz: logits of transformers for the small random models of every family.

    pip install torch==2.13.0 "transformers>=5"
    python tests/golden/make_small_models.py

Each entry is [2, 24, 97] float32, computed in float32 with eager attention.
"""

import pathlib
import sys
import tempfile

import numpy as np
import torch
import transformers

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from tests.helpers import small_models


def reference_logits(folder: str, tokens: np.ndarray) -> np.ndarray:
    """Logits of transformers on a folder, every tensor of which must have been used."""
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    leftover = [*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]]
    if leftover:
        raise ValueError(f"transformers and {folder} disagree on tensors {leftover}")
    with torch.no_grad():
        return model.eval()(torch.tensor(tokens, dtype=torch.int64)).logits.numpy()


def main() -> None:
    golden = {}
    for name in small_models.CONFIGS:
        with tempfile.TemporaryDirectory() as folder:
            small_models.write_folder(name, pathlib.Path(folder))
            golden[name] = reference_logits(folder, small_models.tokens(name))
            print(name, float(np.abs(golden[name]).max()))
    np.savez_compressed(pathlib.Path(__file__).with_name("small_models.npz"), **golden)


if __name__ == "__main__":
    main()
