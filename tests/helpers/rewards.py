"""Reward functions for graders_test and pool_test, good and bad."""

import dataclasses
import os
import signal
import sys
import time

import numpy as np

from restem.records import Problem, Verdict


def fraction_of_words(problem: Problem, text: str) -> float:
    wanted = problem.answer.split()
    return sum(word in text.split() for word in wanted) / len(wanted)


def verdict(problem: Problem, text: str) -> Verdict:
    return Verdict(2.5, method="mine", extracted=text, detail=problem.metadata["note"])


def negative(problem: Problem, text: str) -> float:
    return -1.0


def words(problem: Problem, text: str) -> str:
    return "good"


def numeral(problem: Problem, text: str) -> str:
    return "1.0"


def numeral_in_bytes(problem: Problem, text: str) -> bytes:
    return b"1.0"


def nothing(problem: Problem, text: str) -> None:
    return None


def several(problem: Problem, text: str) -> list[float]:
    return [1.0]


def huge(problem: Problem, text: str) -> int:
    return 10**400


def infinite(problem: Problem, text: str) -> float:
    return float("inf")


def infinite_verdict(problem: Problem, text: str) -> Verdict:
    return Verdict(float("inf"))


def boolean(problem: Problem, text: str) -> bool:
    return True


def scalar_array(problem: Problem, text: str):
    return np.float32(0.5) * np.ones(())


def not_a_number(problem: Problem, text: str) -> float:
    return float("nan")


def numpy_verdict(problem: Problem, text: str) -> Verdict:
    return Verdict(np.float32(0.5), "rm", passed=np.int64(3), correct=np.bool_(True))


def empty_verdict(problem: Problem, text: str) -> Verdict:
    return Verdict(None, "rm", correct=True)


def verdict_without_a_method(problem: Problem, text: str) -> Verdict:
    return Verdict(1.0, None)


class _Broken:
    def __float__(self) -> float:
        raise RuntimeError("no number")

    def __repr__(self) -> str:
        raise RuntimeError("no text")


def broken_number(problem: Problem, text: str) -> _Broken:
    return _Broken()


def broken_generator(problems: list[Problem], texts: list[str]):
    yield 1.0
    raise ValueError("a bad generator")


def generator(problems: list[Problem], texts: list[str]):
    yield from map(len, texts)


_LOADED: list[int] = []


def load() -> None:
    """Takes longer than the tests' time limits, like loading a model."""
    time.sleep(2.0)
    _LOADED.append(os.getpid())


def loaded(problem: Problem, text: str) -> float:
    return float([os.getpid()] == _LOADED)


def broken_load() -> None:
    raise OSError("no such model")


def lengths(problems: list[Problem], texts: list[str]) -> list[float]:
    """Rewards of a batch; a text names the fault."""
    if "raise" in texts:
        raise ValueError("a bad batch")
    if "die" in texts:
        os._exit(3)
    if "sleep" in texts:
        time.sleep(1000)
    if "short" in texts:
        return [1.0]
    if "none" in texts:
        return None
    return [float(len(text)) + 100 * len(texts) for text in texts]


@dataclasses.dataclass(frozen=True)
class Scored(Verdict):
    """A subclass with an additional field."""

    score: int = 7


def scored(problem: Problem, text: str) -> Verdict:
    return Scored(0.75, method="scored")


def raises(problem: Problem, text: str) -> float:
    raise KeyError(f"no entry for {text}")


def misbehave(problem: Problem, text: str) -> float:
    """Does what the text says."""
    print("noise between the answers")
    sys.stdout.flush()
    if text == "sleep":
        time.sleep(1000)
    elif text == "swallow":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1000)
    elif text == "nap":
        time.sleep(0.3)
    elif text == "spin":
        while True:
            pass
    elif text == "exit":
        os._exit(3)
    elif text == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif text == "raise":
        raise ValueError("no such thing")
    elif text == "memory":
        return float(len(bytearray(2**40)))
    elif text.startswith("child"):
        # A child of the worker that outlives its own time.
        child = os.fork()
        if not child:
            time.sleep(1000)
        with open(text.partition(":")[2], "w") as stream:
            stream.write(str(child))
        time.sleep(1000)
    elif text == "pid":
        return float(os.getpid())
    elif text == "imports":
        return float("jax" in sys.modules or "tensorflow" in sys.modules)
    return 0.5


def third(problem, text):
    """A number that float32 cannot hold."""
    return 1 / 3
