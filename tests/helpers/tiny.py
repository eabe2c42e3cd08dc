"""A policy of a few thousand parameters over bytes, for tests of the loop."""

import json
import pathlib
import string

import jax
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from restem.checkpoints import orbax
from restem.models import ModelConfig, init_params
from restem.tokenizers.tokenizer_json import TokenizersVocabulary
from restem.tokenizers.vocabulary import Specials

GIN = """
include "methods/restem.gin"
Run.base = "{base}"
Run.task = "letters"
Run.seed = 3
Run.evaluate_train = 5
letters/jsonl_task.path = "{problems}"
letters/jsonl_task.template = "{{problem}}:"
letters/jsonl_task.grader = {{"kind": "function", "function": "tests.helpers.tiny:few_letters"}}
letters/jsonl_task.stop = ("\\n",)
letters/jsonl_task.stop_after = ()
letters/jsonl_task.max_new_tokens = 12
em.iterations = 2
generate.num_samples = 8
generate.problems_per_shard = 4
Run.e_step_slots = 8
select.cap = 3
adamw.learning_rate = 3e-3
improve.epochs = 4
improve.batch_examples = 8
improve.row_length = 64
improve.rows_per_batch = 4
improve.patience = 3
"""


def vocabulary() -> TokenizersVocabulary:
    """One token per byte, and an end-of-text token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = {"<|endoftext|>": 0, **{c: i + 1 for i, c in enumerate(alphabet)}}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=tokens, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    specials = Specials(bos_id=None, eos_ids=frozenset({0}), pad_id=0, add_bos=False)
    return TokenizersVocabulary(tokenizer.to_str().encode(), specials)


def config(**changes) -> ModelConfig:
    return ModelConfig(
        vocab_size=264, num_layers=2, embed_dim=32, num_heads=4, num_kv_heads=2, head_dim=8,
        mlp_dim=64, max_length=512, tied_head=True,
    ).replace(**changes)  # fmt: skip


def save_policy(folder, *, seed: int = 0) -> str:
    """Writes a random policy to `folder`; returns its reference."""
    params = init_params(config(), jax.random.key(seed))
    # A flatter distribution gives letters, digits and an end of text often enough to be rewarded.
    orbax.save(folder, params, config(), vocabulary())
    return f"orbax:{folder}"


def letters_reward(problem, text: str) -> float:
    """The share of lower-case letters, some of which a random policy writes, and can learn."""
    del problem
    return sum(c in string.ascii_lowercase for c in text) / max(1, len(text))


def few_letters(problem, text: str) -> float:
    """1 if at least a quarter of the text is lower-case letters."""
    return float(letters_reward(problem, text) >= 0.25)


def write_problems(path, counts=(("train", 12), ("validation", 6), ("test", 8))) -> None:
    """A JSONL of problems that have no answer: the reward is a function of the text."""
    with open(path, "w", encoding="utf-8") as file:
        for split, count in counts:
            for i in range(count):
                record = {"problem": f"{split} {i}", "answer": "", "split": split}
                file.write(json.dumps(record) + "\n")


def write_run(folder: pathlib.Path) -> pathlib.Path:
    """Writes a policy, problems and a gin file of a run in which it learns; returns the file."""
    write_problems(folder / "problems.jsonl")
    base = save_policy(folder / "base")
    path = folder / "tiny.gin"
    path.write_text(GIN.format(base=base, problems=folder / "problems.jsonl"))
    return path
