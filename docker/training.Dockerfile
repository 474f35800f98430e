# Training and export: torch, Lightning, ONNX. The wheels of torch run on a GPU and on a CPU.
#   docker build --file docker/training.Dockerfile --tag dinodex-training .
# A machine without a GPU does with smaller wheels: give PyTorch's index of CPU wheels as --build-arg PIP_EXTRA_INDEX_URL=...

# An argument, so that a digest can pin it: --build-arg PYTHON_IMAGE=python@sha256:...
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS wheel
# Where pip looks; empty means where it always looks.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="dinodex training" org.opencontainers.image.licenses="Apache-2.0"
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
# HOME is the one place that is writable under a read-only root file system.
ENV HOME=/tmp \
    PATH=/opt/dinodex/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

# A number for a user, so that an orchestrator can see that it is not root; the service image has the same, as they share volumes.
# A new volume takes its owner from the directory that it is mounted on.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin dinodex \
    && install --directory --owner dinodex --group dinodex /artifacts /runs

# Dependencies before code: this layer, some gigabytes of torch, stays as it is until a version changes.
# Where an index offers 2.15.0+cpu beside 2.15.0, pip takes the former, which needs no CUDA libraries.
COPY docker/training-requirements.txt /opt/
RUN python -m venv /opt/dinodex \
    && pip install --no-cache-dir --requirement /opt/training-requirements.txt
COPY --from=wheel /wheel /opt/wheel
RUN pip install --no-cache-dir --no-deps /opt/wheel/*.whl && pip check

USER 10001:10001
WORKDIR /runs
ENTRYPOINT ["dinodex"]
CMD ["--help"]
