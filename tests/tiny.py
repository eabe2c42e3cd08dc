"""A policy of a few thousand parameters over bytes, for tests of the loop."""

import json
import string

import jax
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from restem.checkpoints import orbax
from restem.data import vocabularies
from restem.models import ModelConfig, init_params


def vocabulary() -> vocabularies.Vocabulary:
    """One token a byte, and an end-of-text token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = {"<|endoftext|>": 0, **{c: i + 1 for i, c in enumerate(alphabet)}}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=tokens, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    specials = vocabularies.Specials(bos_id=None, eos_ids=frozenset({0}), pad_id=0, add_bos=False)
    return vocabularies.TokenizersVocabulary(tokenizer.to_str().encode(), specials)


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
    """The share of lower-case letters: what a random policy gets some of, and can learn."""
    del problem
    return sum(c in string.ascii_lowercase for c in text) / max(1, len(text))


def few_letters(problem, text: str) -> float:
    """1 where at least a quarter of the text is lower-case letters."""
    return float(letters_reward(problem, text) >= 0.25)


def write_problems(path, counts=(("train", 12), ("validation", 6), ("test", 8))) -> None:
    """A JSONL of problems that have no answer: the reward is a function of the text."""
    with open(path, "w", encoding="utf-8") as file:
        for split, count in counts:
            for i in range(count):
                record = {"problem": f"{split} {i}", "answer": "", "split": split}
                file.write(json.dumps(record) + "\n")
