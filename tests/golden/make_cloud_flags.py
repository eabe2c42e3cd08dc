"""Writes cloud_flags.json: the flags of the gcloud, kubectl and docker commands that launchers run.

    python tests/golden/make_cloud_flags.py > tests/golden/cloud_flags.json

needs the Google Cloud SDK (gcloud's own table of completions is read), kubectl and docker. A flag's
value is "value", "bool" or the list of its choices.
"""

import ast
import json
import pathlib
import re
import shutil
import subprocess

GCLOUD = (
    "compute tpus queued-resources create",
    "compute tpus queued-resources describe",
    "compute tpus queued-resources delete",
    "compute tpus tpu-vm ssh",
    "compute tpus tpu-vm scp",
    "storage ls",
)
KUBECTL = ("apply", "get", "logs", "delete", "patch")
DOCKER = ("build", "push", "manifest inspect")


def gcloud() -> dict:
    program = pathlib.Path(shutil.which("gcloud")).resolve()
    text = (program.parent.parent / "data" / "cli" / "gcloud_completions.py").read_text()
    (tree,) = [n.value for n in ast.parse(text).body if isinstance(n, ast.Assign)]
    top = ast.literal_eval(tree)
    found = {}
    for command in GCLOUD:
        node = top
        for word in command.split():
            node = node["commands"][word]
        found[f"gcloud {command}"] = {**top["flags"], **node["flags"]}
    return found


def from_help(program: str, command: str, *more: str) -> dict:
    """The flags of a help text whose lines are `-f, --flag=default:` or `  --flag type`."""
    found = {}
    for argv in ([program, *command.split(), "--help"], *([program, m] for m in more)):
        text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        for name, kind in re.findall(r"^\s+(?:-\w, )?(--[\w-]+)([= ][^\s:]*)?", text, re.MULTILINE):
            is_bool = kind in ("=false", "=true") or kind.strip() == ""
            found[name] = "bool" if is_bool else "value"
    return found


if __name__ == "__main__":
    tables = gcloud()
    for verb in KUBECTL:
        tables[f"kubectl {verb}"] = from_help("kubectl", verb, "options")
    for verb in DOCKER:
        tables[f"docker {verb}"] = from_help("docker", verb)
    print(json.dumps(tables, indent=1, sort_keys=True))
