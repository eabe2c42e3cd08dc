"""The container image that GKE, Vertex AI and Cloud TPU VMs share, and the files in it."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import pathlib
import tarfile

from launch import commands

ROOT = pathlib.Path(__file__).resolve().parent.parent


def files(root: pathlib.Path = ROOT) -> list[pathlib.Path]:
    """Returns the files of the checkout that workers receive, sorted, relative to `root`.

    These are all files except those that .dockerignore names, in the two forms used there: `NAME`
    at the top and `**/NAME` anywhere, each with wildcards.
    """
    patterns = [
        line.strip()
        for line in (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line.strip() and not line.startswith("#")
    ]
    anywhere = [p.removeprefix("**/") for p in patterns if p.startswith("**/")]
    top = [p for p in patterns if not p.startswith("**/")]

    def kept(name: str, at_top: bool) -> bool:
        ignored = (*anywhere, *top) if at_top else anywhere
        return not any(fnmatch.fnmatchcase(name, pattern) for pattern in ignored)

    found = []
    for folder, names, leaves in os.walk(root):
        at_top = pathlib.Path(folder) == root
        names[:] = [name for name in names if kept(name, at_top)]
        found += [
            (pathlib.Path(folder) / leaf).relative_to(root) for leaf in leaves if kept(leaf, at_top)
        ]
    return sorted(found)


def archive(path: pathlib.Path, root: pathlib.Path = ROOT) -> None:
    """Writes the files that workers receive as a .tar.gz."""
    with tarfile.open(path, "w:gz") as tar:
        for file in files(root):
            tar.add(root / file, arcname=str(file), recursive=False)


def content_tag(jax_extra: str, models: bool, root: pathlib.Path = ROOT) -> str:
    """Returns a tag that changes with the content of the image."""
    digest = hashlib.sha256(f"{jax_extra} {models}".encode())
    for file in files(root):
        digest.update(f"\0{file}\0".encode())
        digest.update((root / file).read_bytes())
    return digest.hexdigest()[:16]


class Image:
    """An image by its name: used as it is if the name has a tag or digest, and otherwise built."""

    def __init__(self, name: str, *, jax_extra: str, models: bool):
        """Describes an image.

        Args:
          name: image name, such as REGION-docker.pkg.dev/PROJECT/restem/restem.
          jax_extra: "tpu" or "cuda12".
          models: whether the small models of models.txt are in it.
        """
        self._built = ":" not in name.rpartition("/")[2] and "@" not in name
        self.name = f"{name}:{content_tag(jax_extra, models)}" if self._built else name
        self._arguments = (f"JAX={jax_extra}", f"MODELS={int(models)}")

    def commands(self) -> list[list[str]]:
        """Returns the commands that build the image; none if it is used as it is."""
        if not self._built:
            return []
        options = [f"--build-arg={argument}" for argument in self._arguments]
        return [
            ["docker", "build", f"--tag={self.name}", *options, str(ROOT)],
            ["docker", "push", self.name],
        ]

    def provide(self) -> None:
        """Builds and pushes the image unless the registry already has it."""
        if self._built and commands.ask(["docker", "manifest", "inspect", self.name])[0] != 0:
            for command in self.commands():
                commands.run(command)
