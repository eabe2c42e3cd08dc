"""Packages and dependencies of restem: `tasks/` is installed as `restem.tasks`, `gin/` as its data.

Everything else about the distribution is in pyproject.toml.
"""

from pathlib import Path

from setuptools import find_packages, setup

# Ranges known to work. Python 3.11 resolves to jax 0.10 and flax 0.12; newer Pythons to newer ones.
CORE = [
    "absl-py>=2.1",
    "etils[epath,epy]>=1.10",
    "flax>=0.12,<0.14",
    "gguf>=0.17,<1",
    "gin-config>=0.5,<1",
    "huggingface_hub>=0.34",
    "jax>=0.10,<0.13",
    "jaxtyping>=0.3,<0.4",
    "jinja2>=3.1.6",
    "numpy>=2",
    "optax>=0.2.6,<0.4",
    "orbax-checkpoint>=0.12,<0.14",
    "protobuf>=5",
    "pyarrow>=18",
    "rich>=14.1",
    "safetensors>=0.5",
    "scipy>=1.15",
    "sentencepiece>=0.2",
    "sympy>=1.13,<2",
    "tensorboardX>=2.6",
    "tokenizers>=0.21",
    "matplotlib>=3.9",
    "ml_dtypes>=0.5",
    "mpmath>=1.3,<2",
]
# The host that materialises a task of SeqIO needs these; they bring TensorFlow.
SEQIO = ["seqio>=0.0.20,<0.1", "tensorflow-datasets>=4.9.9,<5"]

# Setuptools wants every folder of data files to be a package of its own.
GIN = ["restem.gin", *(f"restem.gin.{p.name}" for p in sorted(Path("gin").iterdir()) if p.is_dir())]

setup(
    packages=[
        *find_packages(include=["restem", "restem.*"]),
        *("restem.tasks", "restem.tasks.prompts", "restem.tasks.template", *GIN),
    ],
    package_dir={"restem": "restem", "restem.tasks": "tasks", "restem.gin": "gin"},
    package_data={
        "restem": ["py.typed"],
        "restem.report": ["*.css", "*.js"],
        "restem.tasks.prompts": ["*.txt"],
        "restem.tasks.template": ["*.gin", "*.jsonl", "*.txt"],
        **{package: ["*.gin"] for package in GIN},
    },
    install_requires=CORE,
    extras_require={
        "seqio": SEQIO,
        "test": [
            *SEQIO,
            "pytest>=8",
            "pytest-xdist>=3.6",
            "pandas>=2",
            "beartype>=0.22",
            "ruff>=0.15",
            "mypy>=1.18",
        ],
        "parity": ["torch>=2.8", "transformers>=5.0", "peft>=0.17"],
        "plan": ["libtpu"],
        # Programs run on other machines; see docs/pods.md.
        "ray": ["ray>=2.40,<3"],
        "wandb": ["wandb>=0.20"],
        "mlflow": ["mlflow-skinny>=3"],
        # Buckets of Google Cloud Storage: Orbax needs the first, and hosts without TensorFlow read
        # and write files through the second.
        "gcs": ["google-cloud-storage>=2", "gcsfs>=2025.2"],
        # pip may search long among its dependencies; launch/requirements.txt is a set that works.
        "xm": ["xmanager>=0.7"],
    },
)
