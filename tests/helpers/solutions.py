"""Verified samples of two problems."""

from restem.records import Problem, Sample, Verdict


def sample(problem, index, reward, text=None, *, source="policy", finish="eos", answer="1"):
    verdict = Verdict(reward, "string", answer, answer)
    text = f"{problem}{index}" if text is None else text
    return Sample(problem, index, text, (7, index), -1.0, finish, reward, verdict, source=source)


A, B = Problem("a", "train", "A?", answer="1"), Problem("b", "train", "B?", answer="2")
