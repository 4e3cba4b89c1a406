# An example: the node on llama.cpp's own CUDA build, in the image that llama.cpp publishes. For ROCm,
# Vulkan or a build of yours, change the base and the path of llama-server. Built from the repository's
# root; docs/deployment.md has the commands.
ARG LLAMA=ghcr.io/ggml-org/llama.cpp:server-cuda
ARG LLAMA_DIGEST

FROM ${LLAMA}@${LLAMA_DIGEST} AS base
# Ubuntu's Python. Ubuntu keeps no old versions to pin.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

FROM base AS build
ENV PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements/build.txt requirements/node.txt requirements/
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

FROM base AS node
RUN install -d -o 10001 -g 10000 -m 0750 /var/lib/distributed-llm
COPY --from=build /opt/distributed-llm /opt/distributed-llm
# In the environment, so that other arguments do not lose it.
ENV PYTHONDONTWRITEBYTECODE=1 \
    RUNTIME_DIRECTORY=/run/distributed-llm \
    STATE_DIRECTORY=/var/lib/distributed-llm \
    DISTRIBUTED_LLM_ENGINE=llama.cpp \
    DISTRIBUTED_LLM_LLAMA_SERVER=/app/llama-server
USER 10001:10000
WORKDIR /
EXPOSE 8080 7946
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=300s \
    CMD ["/opt/distributed-llm/bin/python", "/opt/distributed-llm/ask.py", "http://127.0.0.1:8080/health"]
ENTRYPOINT ["/opt/distributed-llm/bin/distributed-llm-node"]
CMD ["--host=0.0.0.0"]
