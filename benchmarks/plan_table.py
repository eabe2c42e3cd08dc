"""Writes benchmarks/plan.md: what `restem plan` finds, one row per policy and slice.

    python benchmarks/plan_table.py [NAME ...]

Each compilation takes minutes on two cores; results are kept, so that running again is quick.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "plan"

CASES = {
    "smollm2_135m on v5e_8": [],
    "palm_540b on v5p_1024": ["--gin.improve.optimizer=@adafactor", '--gin.plan.steps=("train",)'],
    "palm_62b on v4_64": ["--gin.improve.optimizer=@adafactor"],
    "gemma3_27b on v5p_64": [],
    "gemma3_27b on v5e_256": [],
    "llama3_70b on v5p_64": [],
}


def command(case: str) -> list[str]:
    model, hardware = case.split(" on ")
    return [
        "restem", "plan", "--gin_file=restem_math.gin", f"--gin_file=models/{model}.gin",
        f"--gin_file=hardware/{hardware}.gin", *CASES[case],
    ]  # fmt: skip


def run(case: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command(case), "--json"], capture_output=True, text=True
    )
    if done.returncode:
        print(f"{case}: {done.stderr[-500:]}", file=sys.stderr)
        return
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{case.replace(' on ', '-')}.json"
    path.write_text(done.stdout, encoding="utf-8")


def row(case: str) -> str | None:
    path = RESULTS / f"{case.replace(' on ', '-')}.json"
    if not path.exists():
        return None
    plan = json.loads(path.read_text(encoding="utf-8"))
    gib = lambda r: sum(v for k, v in r["memory"].items() if k != "needed by the compiler") / 2**30
    cells = [case.split(" on ")[0], plan["topology"]]
    for name in ("prefill", "decode", "train"):
        r = plan["programs"].get(f"{name}, largest that fits", plan["programs"].get(name))
        if r is None:
            cells.append("")
        elif "seconds" not in r:
            cells.append("does not fit")
        else:
            size = {
                "prefill": "",
                "decode": f"{r['slots']} slots, ",
                "train": f"{r['rows']} rows, ",
            }
            cells.append(
                f"{size[name]}{gib(r):.1f} GiB, {r['seconds'] * 1e3:.1f} ms ({r['bound']})"
            )
    rate = plan["e_step"].get("tokens_per_second")
    cells += [f"{plan['hbm_per_chip'] / 2**30:.1f}", f"{rate:,.0f}" if rate else ""]
    cells += [f"{plan['e_step'].get('hours', 0):.2f}", f"{plan['m_step'].get('hours', 0):.2f}"]
    seconds = sum(r.get("compile_seconds", 0) for r in plan["programs"].values())
    cells += [f"{plan['chip_hours']:,.0f}", f"{seconds:.0f}"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    for case in sys.argv[1:]:
        run(case)
    rows = [line for line in map(row, CASES) if line]
    commands = "\n".join("    " + " ".join(command(case)) for case in CASES)
    text = (HERE / "plan.md.in").read_text(encoding="utf-8")
    text = text.replace("@ROWS@", "\n".join(rows)).replace("@COMMANDS@", commands)
    (HERE / "plan.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
