"""Former home of `restem.verify.extract_answer`, importable until 1.0."""

from restem.verify.answers.extract import extract, extract_gold

__all__ = ["extract", "extract_gold"]
