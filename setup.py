"""Installs restem: `tasks/` goes in as `restem.tasks`, `gin/` as its data."""

from pathlib import Path

from setuptools import find_packages, setup

# Ranges known to work; Python 3.11 resolves to jax 0.10 and flax 0.12, newer Pythons to newer ones.
CORE = [
    "absl-py>=2.1",
    "etils[epath,epy]>=1.10",
    "flax>=0.12,<0.14",
    "gguf>=0.17,<1",
    "gin-config>=0.5,<1",
    "jax>=0.10,<0.13",
    "numpy>=2",
    "optax>=0.2.6,<0.4",
    "orbax-checkpoint>=0.12,<0.14",
    "protobuf>=5",
    "pyarrow>=18",
    "rich>=13",
    "safetensors>=0.5",
    "sentencepiece>=0.2",
    "tensorboardX>=2.6",
    "tokenizers>=0.21",
    "matplotlib>=3.9",
    "ml_dtypes>=0.5",
    "mpmath>=1.3,<2",
]
# SeqIO and TFDS bring TensorFlow: only the host that materialises a task needs them.
SEQIO = ["seqio>=0.0.20,<0.1", "tensorflow-datasets>=4.9.9,<5"]

setup(
    name="restem",
    version="0.1.0",
    description="ReST-EM (arXiv 2312.06585): expectation-maximization self-training in JAX",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["restem", "restem.*"]), "restem.tasks", "restem.gin"],
    package_dir={"restem": "restem", "restem.tasks": "tasks", "restem.gin": "gin"},
    package_data={
        "restem.tasks": ["prompts/*.txt", "prompts/*.jsonl"],
        "restem.gin": ["*.gin", "*/*.gin"],
        "restem.report": ["*.css", "*.js"],
    },
    install_requires=CORE + SEQIO,
    extras_require={
        "test": ["pytest>=8", "pytest-xdist>=3.6", "pandas>=2", "ruff>=0.15", "mypy>=1.18"],
        "parity": ["torch>=2.8", "transformers>=5.0"],
        "plan": ["libtpu"],
        # Orbax asks buckets of Google Cloud Storage through it; others it does not know.
        "gcs": ["google-cloud-storage>=2"],
        # pip may search long among its dependencies; launch/requirements.txt is a set that works.
        "xm": ["xmanager>=0.7"],
    },
    entry_points={"console_scripts": ["restem = restem.cli.main:console"]},
)
