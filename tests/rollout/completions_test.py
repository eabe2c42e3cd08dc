"""Samples of another engine become an E-step, from the requests to a finished run."""

import contextlib
import copy
import dataclasses
import io
import json
import logging
import math
import pathlib
import random
import sys
import types
from concurrent import futures
from typing import Any, ClassVar
from unittest import mock

import gin
import jax
from absl.testing import absltest, parameterized

from benchmarks import vllm_completions
from restem import checkpoints
from restem.cli.main import main
from restem.errors import UserError
from restem.records import Problem, TaskCard, Verdict
from restem.rollout import Rollout, completions
from restem.rollout.completions import Completed
from restem.run import layout, reader
from restem.runtime import storage
from restem.runtime.progress import CONSOLE
from restem.sampling.stopping import training_ids
from tests.helpers import tiny
from tests.helpers.compilation import compile_quickly

CARD = TaskCard("sums", prefix="1+1=2\n", stop=("\n",), stop_after=(" END",), max_new_tokens=8)


@dataclasses.dataclass(kw_only=True)
class SamplingParams:
    """The arguments of `vllm.SamplingParams` (vllm/sampling_params.py) that the script may use."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: list[str] | None = None
    stop_token_ids: list[int] | None = None
    max_tokens: int | None = 16
    logprobs: int | None = None
    include_stop_str_in_output: bool = False


@dataclasses.dataclass
class CompletionOutput:
    """The fields of vLLM's class of this name (vllm/outputs.py)."""

    index: int
    text: str
    token_ids: Any
    cumulative_logprob: float | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class LLM:
    """A stand-in for `vllm.LLM` that records its calls and writes random letters and digits."""

    made: ClassVar[list[Any]] = []

    def __init__(
        self, model: str, *, dtype="auto", seed=None, tensor_parallel_size=1,
        enable_prefix_caching=None,
    ):  # fmt: skip
        self.model = model
        self.calls: list[tuple[Any, Any]] = []
        self.made.append(self)

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True):
        self.calls.append((prompts, sampling_params))
        return [
            types.SimpleNamespace(outputs=[self.output(p, s, i) for i in reversed(range(s.n))])
            for p, s in zip(prompts, sampling_params, strict=True)
        ]

    def output(self, prompt, params: SamplingParams, index: int) -> CompletionOutput:
        rng = random.Random(repr((prompt["prompt_token_ids"], index)))
        text = "".join(rng.choices("abcd1234\n", k=params.max_tokens))
        end = min((text.find(s) + len(s) for s in params.stop if s in text), default=0)
        logprob = None if params.logprobs is None else -1.5
        text, reason = (text[:end], "stop") if end else (text, "length")
        ids = tuple(tiny.vocabulary().encode(text))
        return CompletionOutput(index, text, ids, logprob, reason)


class FilesTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.path = pathlib.Path(self.create_tempdir().full_path, "completions.jsonl")
        self.policy = checkpoints.Policy(
            config=tiny.config(), params={}, vocabulary=tiny.vocabulary(), reference="tiny"
        )
        self.problems = [Problem(name, "train", f"{name}=") for name in ("a", "b")]

    def ids(self, text: str) -> list[int]:
        return self.policy.vocabulary.encode(text)

    def write(self, *rows) -> None:
        self.path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def read(self, *rows):
        self.write(*rows)
        return completions.read([str(self.path)], CARD, self.policy)

    def one(self, **row):
        return self.read({"problem_id": "a", **row})["a"][0]

    @parameterized.parameters(
        ("4", "stop", "4", "eos"),  # the engine removed the stop string, or met EOS
        ("4\n1+2", "stop", "4", "stop"),
        ("4 END. And", None, "4 END", "stop"),
        ("4", "length", "4", "length"),
        ("4", {"type": "stop", "matched": 0}, "4", "eos"),
        ("", "stop", "", "eos"),
    )
    def test_text(self, given, reason, text, ended):
        sample = self.one(text=given, finish_reason=reason)
        self.assertEqual((sample.text, sample.finish_reason, sample.token_ids), (text, ended, ()))
        self.assertTrue(math.isnan(sample.logprob))

    def test_token_ids_decide(self):
        ids = self.ids("4 END. And")
        sample = self.one(text="4", token_ids=ids, logprob=-2, finish_reason="stop")
        self.assertEqual((sample.text, sample.finish_reason), ("4 END", "stop"))
        self.assertEqual((sample.token_ids, sample.logprob), (tuple(ids), -2.0))
        ended = self.one(token_ids=[*self.ids("42"), 0, *self.ids("7")])
        self.assertEqual((ended.text, ended.finish_reason), ("42", "eos"))
        self.assertEqual(ended.token_ids, (*self.ids("42"), 0))

    def test_an_end_of_text_that_the_vocabulary_spells(self):
        """Gemma's tokenizer.model spells <end_of_turn>."""
        spelled = self.ids("|")[0]
        vocabulary = copy.copy(self.policy.vocabulary)
        vocabulary.specials = dataclasses.replace(
            vocabulary.specials, eos_ids=vocabulary.eos_ids | {spelled}
        )
        self.policy = self.policy.replace(vocabulary=vocabulary)
        sample = self.one(token_ids=[*self.ids("42"), spelled, *self.ids("7")])
        self.assertEqual((sample.text, sample.finish_reason), ("42", "eos"))
        self.assertEqual(sample.token_ids, (*self.ids("42"), spelled))
        ids = training_ids(sample.token_ids, sample.text, vocabulary).ids
        self.assertEqual(ids, tuple(self.ids("42")))

    def test_the_order_of_the_lines_numbers_the_samples(self):
        rows = [
            {"problem_id": p, "text": t, "finish_reason": "stop"} for p, t in ("ax", "by", "az")
        ]
        found = self.read(*rows)
        self.assertEqual([(s.sample_index, s.text) for s in found["a"]], [(0, "x"), (1, "z")])

    def test_unstated_reasons_are_counted(self):
        with self.assertLogs(level="WARNING") as logged:
            sample = self.one(text="4")
        self.assertEqual(sample.finish_reason, "eos")
        self.assertIn("1 samples have no finish_reason", logged.output[0])

    @parameterized.parameters(
        ("no 'problem_id'", {"problem_id": None, "text": "4"}),
        ("needs 'text', a string, or 'token_ids'", {}),
        ("needs 'text', a string, or 'token_ids'", {"text": 4}),
        ("are not ids of the vocabulary of tiny", {"token_ids": [1, 9999]}),
        ("are not ids of the vocabulary of tiny", {"token_ids": "12"}),
        ("do not spell 'text' with the vocabulary of tiny", {"token_ids": [40], "text": "no"}),
        ("finish_reason is 'abort', not eos or", {"text": "", "finish_reason": "abort"}),
        ("finish_reason is \\['stop'\\], not eos", {"text": "", "finish_reason": ["stop"]}),
        ("finish_reason is {'a': 1}, not", {"text": "", "finish_reason": {"type": {"a": 1}}}),
        ("'logprob' is '-1', not a number", {"text": "4", "logprob": "-1"}),
        ("'logprob' is 1000.*, too large", {"text": "4", "logprob": 10**400}),
        ("'text' is not text that UTF-8 can hold", {"text": "\ud83d"}),
    )  # fmt: skip
    def test_bad_lines(self, message, row):
        with self.assertRaisesRegex(UserError, f"completions.jsonl, line 2: .*{message}"):
            self.read({"problem_id": "a", "text": "4"}, {"problem_id": "a", **row})

    @parameterized.parameters(
        ("samples of 1 problems that this E-step does not sample, such as 'c'", "aabbc"),
        ("1 of 2 problems have fewer than .*=2 samples, such as 'b' with 1", "aab"),
        ("1 of 2 problems have fewer than .*=2 samples, such as 'b' with 0", "aa"),
        ("1 of 2 problems have more than .*=2 samples, such as 'a' with 3", "aaabb"),
    )
    def test_what_is_missing_unknown_or_too_much(self, message, names):
        self.write(*({"problem_id": name, "text": "4", "finish_reason": "stop"} for name in names))
        rollout = completions.Completed.of(
            [str(self.path)], card=CARD, policy=self.policy, verifier=None, key=0
        )
        with self.assertRaisesRegex(UserError, f"completions.jsonl: {message}"):
            rollout.check(self.problems, 2)

    def test_samples_that_exist_are_left_out(self):
        self.write(*({"problem_id": p, "text": p, "finish_reason": "stop"} for p in "aabb"))
        verdict = futures.Future()
        verdict.set_result(Verdict(1.0))
        verifier = mock.Mock(submit=mock.Mock(return_value=verdict))
        rollout = completions.Completed.of(
            [str(self.path)], card=CARD, policy=self.policy, verifier=verifier, key=0
        )
        samples = rollout.sample(self.problems, 2, skip=[("a", 0), ("b", 1)])
        self.assertCountEqual(
            [(s.problem_id, s.sample_index) for s in samples], [("a", 1), ("b", 0)]
        )

    def test_a_method_that_samples_more_is_refused(self):
        rollout = completions.Completed(self.policy, CARD, None, 0)
        with self.assertRaisesRegex(UserError, "generate.extend.*leave out --completions"):
            list(rollout.sample(self.problems, 1, first_sample=4))


class EngineTest(absltest.TestCase):
    """The whole way: requests, the script with a stand-in for vLLM, completions, and the run."""

    def setUp(self):
        super().setUp()
        self.addCleanup(gin.clear_config)
        cache = jax.config.jax_compilation_cache_dir
        self.addCleanup(jax.config.update, "jax_compilation_cache_dir", cache)
        self.addCleanup(setattr, logging.getLogger(), "handlers", logging.getLogger().handlers[:])
        compile_quickly(self)
        self.folder = pathlib.Path(self.create_tempdir().full_path)
        self.gin = tiny.write_run(self.folder)
        self.files = layout.Workdir(self.folder / "run")

    def restem(self, verb, *flags, code=0) -> str:
        gin.clear_config()
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), CONSOLE.capture() as shown:
            where = [f"--gin_file={self.gin}", f"--workdir={self.files.path}"]
            settings = ["--gin.generate.num_samples=2", "--gin.Run.trackers=()"]
            found = main([verb, *where, *settings, *flags])
        self.assertEqual(found, code, errors.getvalue())
        return shown.get() + errors.getvalue()

    def test_a_run_goes_on_from_completions(self):
        requests, output = self.folder / "requests.jsonl", self.folder / "completions.jsonl"
        self.restem("generate", f"--requests={requests}")
        asked = [json.loads(line) for line in requests.read_text().splitlines()]
        self.assertLen(asked, 12)
        self.assertFalse(self.files.iteration(1).samples.exists())
        wanted = tiny.vocabulary().encode("train 0:")
        self.assertEqual(asked[0]["prompt_token_ids"], wanted)

        engine = types.SimpleNamespace(LLM=LLM, SamplingParams=SamplingParams)
        with mock.patch.dict(sys.modules, vllm=engine):
            vllm_completions.main([
                "--model=/models/base", f"--requests={requests}",
                f"--output={output}", "--logprobs",
            ])  # fmt: skip
        ((prompts, params),) = LLM.made[-1].calls
        self.assertEqual(LLM.made[-1].model, "/models/base")
        self.assertEqual(prompts[0], {"prompt_token_ids": wanted})
        self.assertEqual((params[0].n, params[0].max_tokens, params[0].logprobs), (2, 12, 0))
        self.assertEqual((params[0].temperature, params[0].top_k), (0.7, 40))
        self.assertEqual((params[0].stop, params[0].stop_token_ids), (["\n"], [0]))
        lines = [json.loads(line) for line in output.read_text().splitlines()]
        self.assertEqual([row["problem_id"] for row in lines[:3]], ["line-1", "line-1", "line-2"])

        short = self.folder / "short.jsonl"
        short.write_text(output.read_text().partition("\n")[2])
        shown = self.restem("generate", f"--completions={short}", code=2)
        self.assertIn("1 of 12 problems have fewer than generate.num_samples=2", shown)
        self.assertFalse(self.files.iteration(1).samples.exists())

        shown = self.restem("generate", f"--completions={output}")
        self.assertIn("24 samples", shown)
        generation = storage.read_json(self.files.iteration(1).generation)
        self.assertEqual(generation["completions"], [str(output)])
        self.assertIsNone(generation["tokens_per_second"])
        samples = reader.read_samples(self.files.iteration(1))
        self.assertCountEqual(
            [(s.problem_id, s.token_ids, s.logprob) for s in samples],
            [(row["problem_id"], tuple(row["token_ids"]), -1.5) for row in lines],
        )
        self.assertTrue(all(s.verdict is not None for s in samples))
        self.assertGreater(sum(s.correct for s in samples), 0)
        shown = self.restem("generate", f"--completions={output}", "--iteration=1", code=2)
        self.assertIn("iteration 1 has samples already, so --completions is refused", shown)
        self.restem("select", "--iteration=1")
        selection = storage.read_json(self.files.iteration(1).selection)
        self.assertEqual(selection["sampled"], 24)
        # The E-step is done: the loop neither samples nor verifies.
        with mock.patch.object(Completed, "sample"), mock.patch.object(Rollout, "sample"):
            self.restem("generate", "--iteration=1")
        self.assertEqual(reader.read_samples(self.files.iteration(1)), samples)

        # The policy does not draw what the engine drew.
        shard = min(self.files.iteration(1).samples.glob("*.parquet"))
        shard.write_bytes(b"damaged")
        for flag in ("--dry_run", "--iteration=1"):
            shown = self.restem("generate", "--repair", flag, code=2)
            self.assertIn(f"--repair --completions={output} reads them again", shown)
        self.assertEqual(shard.read_bytes(), b"damaged")
        with mock.patch.object(Rollout, "_completed"):
            self.restem("generate", "--repair", f"--completions={output}", "--iteration=1")
        self.assertEqual(reader.read_samples(self.files.iteration(1)), samples)


if __name__ == "__main__":
    absltest.main()
