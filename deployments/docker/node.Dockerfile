# The node with both engines and the demo model. Built by `just images`, from the repository's root,
# which has to be told the base's digest: a tag can be moved, a digest cannot.
ARG PYTHON=3.11-slim-bookworm
ARG PYTHON_DIGEST

FROM python:${PYTHON}@${PYTHON_DIGEST} AS build
ENV PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements/build.txt requirements/node.txt requirements/
# Wheels first, so that what has none is built by the pinned setuptools and by nothing else.
RUN python3 -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes --requirement requirements/build.txt \
    && /opt/build/bin/pip wheel --no-build-isolation --require-hashes --wheel-dir /opt/wheels \
        --requirement requirements/node.txt
COPY LICENSE README.md pyproject.toml ./
COPY shared/ shared/
COPY node/ node/
RUN /opt/build/bin/pip wheel --no-build-isolation --no-deps --wheel-dir /opt/wheels . \
    && python3 -m venv --without-pip /opt/distributed-llm \
    && /opt/build/bin/pip --python /opt/distributed-llm/bin/python install --no-index --no-deps \
        /opt/wheels/*.whl \
    && rm /opt/distributed-llm/bin/agent /opt/distributed-llm/bin/distributed-llm-exporter
COPY deployments/docker/ask.py /opt/distributed-llm/

FROM python:${PYTHON}@${PYTHON_DIGEST} AS node
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="distributed-llm node" \
      org.opencontainers.image.description="Serves a GGUF model over an OpenAI-compatible API" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# llama.cpp's threads need it. Debian keeps no old versions to pin.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*
# The user is not the exporter's; the group is shared with it and may use the socket.
RUN install -d -o 10001 -g 10000 -m 0750 /var/lib/distributed-llm
COPY --from=build /opt/distributed-llm /opt/distributed-llm
# The names that systemd uses: nothing has to be looked for in a root that cannot be written.
ENV PYTHONDONTWRITEBYTECODE=1 \
    RUNTIME_DIRECTORY=/run/distributed-llm \
    STATE_DIRECTORY=/var/lib/distributed-llm
USER 10001:10000
WORKDIR /
EXPOSE 8080 7946
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["/opt/distributed-llm/bin/python", "/opt/distributed-llm/ask.py", "http://127.0.0.1:8080/health"]
ENTRYPOINT ["/opt/distributed-llm/bin/distributed-llm-node"]
CMD ["--host=0.0.0.0"]
