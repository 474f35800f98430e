# The service, on a CPU: OpenVINO and FAISS, no torch. Also holds the client and `dinodex index`.
#   docker build --file docker/service.Dockerfile --tag dinodex-service .

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
LABEL org.opencontainers.image.title="dinodex service" org.opencontainers.image.licenses="Apache-2.0"
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
# HOME is the one place that is writable under a read-only root file system.
ENV HOME=/tmp \
    PATH=/opt/dinodex/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

# A number for a user, so that an orchestrator can see that it is not root; the training image has the same, as they share volumes.
# A new volume takes its owner from the directory that it is mounted on.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin dinodex \
    && install --directory --owner dinodex --group dinodex /artifacts /data

# Dependencies before code: this layer stays as it is until a version changes.
COPY docker/service-requirements.txt /opt/
RUN python -m venv /opt/dinodex \
    && pip install --no-cache-dir --requirement /opt/service-requirements.txt
COPY --from=wheel /wheel /opt/wheel
RUN pip install --no-cache-dir --no-deps /opt/wheel/*.whl && pip check

USER 10001:10001
WORKDIR /data
EXPOSE 8000
ENTRYPOINT ["dinodex"]
CMD ["--help"]
