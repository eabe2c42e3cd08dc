"""The process that judges programs: one per worker, single-threaded, started by exec.

It alone holds tests and expected values. It reads jobs from its standard input, has them run in
jails that its zygote forks, compares what comes out, and writes verdicts to its standard output.
It was never forked from the process that holds the accelerator, and ends when that one does.

Messages are JSON with their length before them (`restem.verify.pool.codec.Channel`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import time
from typing import Any

from restem.errors import UserError
from restem.verify.pool import codec
from restem.verify.programs import judge
from restem.verify.programs import tests as program_tests
from restem.verify.programs import text as program_text
from restem.verify.sandbox import jails, probes
from restem.verify.sandbox.limits import Limits

MAX_PROGRAM = 1 << 17
"""Characters of a model's text; a longer one is no program."""


def grade(worker: jails.Worker, job: dict[str, Any], hangup_fd: int | None) -> dict[str, Any]:
    """The verdict on one text."""
    start = time.monotonic()
    text, extracted = job["text"], None
    try:
        tests = program_tests.parse_tests(job["tests"])
        if len(text) > MAX_PROGRAM:
            outcome = judge.Outcome(0.0, "error", f"a text of {len(text)} characters")
            extracted = text[:MAX_PROGRAM]
        else:
            defines = getattr(tests, "entry_point", None) or getattr(tests, "fn_name", None)
            extracted = program_text.extract_program(
                text, job["extraction"], stop=job["stop"], defines=defines
            )
            if extracted is None:
                outcome = judge.Outcome(0.0, "error", "no program in the text")
            else:
                extracted = program_tests.program_of(tests, extracted)
                with judge.Run(worker, worker.limits, hangup_fd=hangup_fd) as run:
                    outcome = judge.judge(run, extracted, tests)
    except (UserError, codec.CodecError) as error:
        outcome = judge.Outcome(0.0, "error", str(error))
    except (EOFError, OSError):
        raise  # the caller or the zygote is gone: start anew
    except Exception as error:
        outcome = judge.Outcome(
            0.0, "error", f"the verifier failed: {type(error).__name__}: {error}"
        )
    return {
        "id": job["id"],
        **dataclasses.asdict(outcome),
        "extracted": extracted,
        "seconds": time.monotonic() - start,
    }


def start(arguments: list[str]) -> None:
    config = json.loads(arguments[0])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller decides; it closes the pipe
    sys.set_int_max_str_digits(0)
    channel = codec.Channel(os.dup(0), os.dup(1))
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(2, 1)
    worker = jails.Worker(
        slot=config["slot"],
        limits=Limits(**config["limits"]),
        without=tuple(config["without"]),
        packages=config["packages"],
    )
    try:
        statuses = probes.probe(worker)
        channel.send(json.dumps({"layers": statuses, "worker": worker.pid}).encode())
        while True:
            job = json.loads(channel.receive())
            channel.send(json.dumps(grade(worker, job, channel.read_fd)).encode())
    except (EOFError, BrokenPipeError):
        pass  # the caller is done
    finally:
        worker.close()
