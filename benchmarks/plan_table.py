"""Writes benchmarks/plan.md: what `restem plan` finds for policies and slices, one row each.

    python benchmarks/plan_table.py [NAME ...]

Compilations take minutes each on two cores; their results are kept, so running again is quick.
"""

from __future__ import annotations

import json
import pathlib
import shlex
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "plan"

LORA = ["--gin.improve.adapter=@Lora()", "--gin.e_step/make_mesh.tensor=8"]
CASES = {
    "llama3_70b on v5p_64": [],
    "gemma3_27b on v5p_64": [],
    "gemma3_27b on v5e_256": [],
    "gemma3_27b on v5e_8": LORA,
    "llama3_8b on v5e_8": LORA,
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
    policy = case.split(" on ")[0] + (", LoRA" if plan["work"]["is_adapter"] else "")
    cells = [policy, plan["topology"]]
    for name in ("decode", "train"):
        r = plan["programs"].get(f"{name}, largest that fits", plan["programs"].get(name))
        if r is None:
            cells.append("")
        elif "seconds" not in r:
            cells.append("does not fit")
        else:
            if name == "decode":
                size = f"{r['slots']:,} slots"
            else:
                shape = r["shapes"]
                shared = f", {shape['length_parts']} parts share a row"
                size = (
                    f"{shape['micro_batches']} x {r['rows']} rows of {shape['row_length']:,}"
                    f"{shared if shape['length_parts'] > 1 else ''}, remat {r['remat']}"
                )
            cells.append(f"{size}; {gib(r):.1f} GiB; {r['seconds'] * 1e3:.0f} ms ({r['bound']})")
    e_step, m_step = plan["e_step"], plan["m_step"]
    rate = e_step.get("tokens_per_second", 0)
    cells += [f"{rate:,.0f}", f"{rate / plan['chips']:,.0f}"]
    cells += [f"{100 * m_step.get('efficiency', 0):.0f}%", f"{100 * m_step.get('mfu', 0):.0f}%"]
    cells += [f"{e_step.get('hours', 0):.2f}", f"{m_step.get('hours', 0):.2f}"]
    cells += [f"{plan['chip_hours']:,.0f}", f"{plan['compile_seconds']:.0f}"]
    return "| " + " | ".join(cells) + " |"


def page() -> str:
    """Returns the page: the template `plan.md.in` with the rows and commands of all results."""
    rows = [line for line in map(row, CASES) if line]
    known = [case for case in CASES if row(case)]
    commands = "\n".join("    " + shlex.join(command(case)) for case in known)
    text = (HERE / "plan.md.in").read_text(encoding="utf-8")
    return text.replace("@ROWS@", "\n".join(rows)).replace("@COMMANDS@", commands)


def main() -> None:
    for case in sys.argv[1:]:
        run(case)
    (HERE / "plan.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
