# The commands of distributed-llm. `just` lists them.

set shell := ["bash", "-euo", "pipefail", "-c"]

venv := justfile_directory() / ".venv"
python := venv / "bin/python"
generated := justfile_directory() / "node/api/grpc/generated"
# The tests of a module share processes, so they run in one worker.
workers := "-n 2 --dist loadfile --no-loadscope-reorder"
export PATH := venv / "bin" + ":" + env("PATH")

[private]
default:
    @just --list --unsorted

# Run node and exporter with the demo model on this machine; prints commands to try
run-local *flags: (_install "runtime")
    @exec agent --node-id=local {{ flags }}

# Run three agents with different models that form a mesh; prints the models of each node
run-cluster *flags: (_install "runtime")
    @exec python -m deployments.cluster {{ flags }}

# Run node and exporter together with your flags (`just agent --help`)
agent *flags: (_install "runtime")
    @exec agent {{ flags }}

# Run the node alone
node *flags: (_install "runtime")
    @exec distributed-llm-node {{ flags }}

# Run the exporter alone
exporter *flags: (_install "runtime")
    @exec distributed-llm-exporter {{ flags }}

# Run the quick tests, in minutes; arguments go to pytest (`just test tests/node -x`)
test *arguments="-m 'not slow'": (_install "dev")
    @exec python -m pytest {{ workers }} {{ arguments }}

# Run the tests that take long or need Prometheus, Chromium, systemd ...
test-slow: (_install "dev") (_install "models") _clients
    @exec python -m pytest {{ workers }} -m slow

# Run every test
test-all: test test-slow

# Check formatting, lint and types, and run the quick tests
check: (_install "dev") && test
    ruff format --check .
    ruff check .
    mypy

# Format the code and apply lint's fixes
fmt: (_install "dev")
    ruff format .
    ruff check --fix .

# Run the benchmarks, or the named ones, against a peer or the limit (`just bench emit`)
bench *names: (_install "dev") (_install "models")
    @exec python -m tests.bench {{ names }}

# Install llama-cpp-python's server as a peer for `just bench stream`; it compiles for minutes
peer: _uv
    uv venv --quiet --allow-existing --python '>=3.11' .local/peer
    uv pip install --quiet --python .local/peer/bin/python 'llama-cpp-python[server]==0.3.36'

# Install the clients of tests/clients; Node's only where npm is installed
_clients: (_apart "clients") (_apart "load-clients")
    #!/usr/bin/env bash
    set -euo pipefail
    source=tests/clients/javascript
    target=.local/clients
    if cmp --quiet $source/package-lock.json $target/node_modules/.installed-from; then exit 0; fi
    command -v npm >/dev/null || exit 0
    cp $source/{package.json,package-lock.json,.npmrc} $target
    npm ci --prefix $target --no-audit --no-fund --silent
    cp $source/package-lock.json $target/node_modules/.installed-from

# Install pinned requirements to .local, in an environment of their own
_apart set: _uv
    #!/usr/bin/env bash
    set -euo pipefail
    wanted=requirements/{{ set }}.txt
    target=.local/{{ set }}
    if cmp --quiet $wanted $target/installed-from; then exit 0; fi
    uv venv --quiet --allow-existing --python '>=3.11' $target
    uv pip sync --quiet --python $target/bin/python --require-hashes $wanted
    cp $wanted $target/installed-from

# Compile llama-server and ggml-rpc-server to .local/llama-server/bin; 12 minutes on two cores
llama-server: _uv
    #!/usr/bin/env bash
    set -euo pipefail
    wanted="$(sha256sum requirements/llama-server.txt)"
    target=.local/llama-server
    if [ "$(cat $target/built-from 2>/dev/null)" = "$wanted" ]; then exit 0; fi
    command -v c++ >/dev/null || { echo "llama-server: c++ is missing: apt-get install g++" >&2; exit 1; }
    mkdir -p $target/source
    uv venv --quiet --allow-existing --python '>=3.11' $target/venv
    uv pip install --quiet --python $target/venv/bin/python \
        --group llama-server --constraint requirements/dev.txt
    export PATH="$PWD/$target/venv/bin:$PATH"
    if [ ! -f $target/source/.whole ]; then
        # llama-cpp-python contains the source of llama.cpp.
        pip download --quiet --no-deps --no-binary :all: --no-build-isolation --require-hashes \
            --requirement requirements/llama-server.txt --dest $target
        tar -xzf $target/llama_cpp_python-*.tar.gz -C $target/source --strip-components 1
        touch $target/source/.whole
    fi
    cmake -S $target/source/vendor/llama.cpp -B $target/build -G Ninja --log-level=ERROR \
        -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF \
        -DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON -DGGML_RPC=ON \
        -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_BUILD_TESTS=OFF \
        -DLLAMA_BUILD_EXAMPLES=OFF
    cmake --build $target/build --target llama-server ggml-rpc-server
    install -D --strip -t $target/bin $target/build/bin/llama-server $target/build/bin/ggml-rpc-server
    echo "$wanted" > $target/built-from
    rm -rf $target/source $target/build $target/venv $target/llama_cpp_python-*.tar.gz

# Generate docs/metrics.md, docs/settings.md, docs/api-fields.md and docs/licenses.md
docs: (_install "dev")
    python -m deployments.metrics_reference > docs/metrics.md
    python -m deployments.settings_reference > docs/settings.md
    python -m deployments.fields_reference > docs/api-fields.md
    python -m deployments.release.licenses > docs/licenses.md

# Generate the code of shared/proto
proto: (_install "dev")
    cd shared/proto && python -m grpc_tools.protoc --proto_path=. \
        --py_out={{ generated }} --connectrpc_out={{ generated }} $(find . -name '*.proto' -printf '%P\n')

# Regenerate the golden exposition, for review
golden: (_install "dev")
    python -m tests.exporter.golden

# Make all faults, or the named ones, against real processes (`just chaos exporter-killed`)
chaos *names: (_install "dev")
    @exec python -m tests.chaos {{ names }}

# Start Prometheus for the agent on this machine, on port 9091
metrics: (_install "runtime")
    @exec python -m deployments.local metrics

# Start Grafana with the dashboard, on port 3000 (admin/admin)
grafana: (_install "runtime")
    @exec python -m deployments.local grafana

# Start Alertmanager, on port 9093; restart Prometheus afterwards to send it alerts
alertmanager: (_install "runtime")
    @exec python -m deployments.local alertmanager

# Start Prometheus, Grafana and, if it is installed, Alertmanager
monitoring: (_install "runtime")
    @exec python -m deployments.local monitoring

# Stop the Prometheus that `just metrics` started
metrics-stop: (_install "runtime")
    @exec python -m deployments.local metrics-stop

# Stop the Grafana that `just grafana` started
grafana-stop: (_install "runtime")
    @exec python -m deployments.local grafana-stop

# Stop the Alertmanager that `just alertmanager` started
alertmanager-stop: (_install "runtime")
    @exec python -m deployments.local alertmanager-stop

# Stop Prometheus, Grafana and Alertmanager
monitoring-stop: (_install "runtime")
    @exec python -m deployments.local monitoring-stop

# Check the agent's metrics, its health and Prometheus
metrics-check: (_install "runtime")
    @exec python -m deployments.local metrics-check

# Generate deployments/grafana/dashboard.json
dashboard: (_install "dev")
    python -m deployments.grafana.dashboard > deployments/grafana/dashboard.json

# Draw the dashboard under load to .local/dashboard.png, without Grafana
dashboard-preview *flags: (_install "dev")
    @exec python -m tests.monitoring.preview {{ flags }}

# Generate the monitoring files from the rules and deployments/addresses.toml
monitoring-files: (_install "dev") && dashboard
    python -m deployments.prometheus

# Run a node under load and name every alert that it raises (`just quiet-run --minutes 10`)
quiet-run *flags: (_install "dev")
    @exec python -m tests.monitoring.quiet {{ flags }}

# Pin the requirements of pyproject.toml again (`just pin --upgrade` for newer versions)
pin *flags: _uv
    uv pip compile {{ flags }} --quiet --universal --python-version 3.11 --generate-hashes \
        --no-header --no-annotate \
        --extra node --extra exporter --extra traces --extra top pyproject.toml \
        -o requirements/runtime.txt
    uv pip compile {{ flags }} --quiet --universal --python-version 3.11 --generate-hashes \
        --no-header --no-annotate \
        --extra node --extra exporter --extra traces --extra top --group dev \
        -c requirements/runtime.txt pyproject.toml -o requirements/dev.txt
    uv pip compile {{ flags }} --quiet --universal --python-version 3.11 --generate-hashes \
        --no-header --no-annotate --group models -c requirements/dev.txt \
        -o requirements/models.txt
    for set in clients load-clients; do \
        uv pip compile {{ flags }} --quiet --universal --python-version 3.11 --generate-hashes \
            --no-header --no-annotate --group $set -o requirements/$set.txt; \
    done
    uv pip compile {{ flags }} --quiet --universal --python-version 3.11 --generate-hashes \
        --no-header --no-annotate --no-deps - <<< "llama-cpp-python==0.3.36" \
        -o requirements/llama-server.txt
    for image in node "exporter --extra traces"; do \
        uv pip compile {{ flags }} --quiet --universal --python-version 3.11 --generate-hashes \
            --no-header --no-annotate \
            --extra $image -c requirements/runtime.txt pyproject.toml \
            -o "requirements/${image%% *}.txt"; \
    done
    uv pip compile {{ flags }} --quiet --universal --python-version 3.11 --generate-hashes \
        --no-header --no-annotate --group build -c requirements/dev.txt \
        -o requirements/build.txt

# Build both images on a base (`just images sha256:…`); needs Docker or Podman
images digest="":
    #!/usr/bin/env bash
    set -euo pipefail
    engine="$(command -v docker || command -v podman || true)"
    if [ -z "$engine" ] || ! "$engine" info >/dev/null 2>&1; then
        echo "images: neither Docker's engine nor Podman answers here" >&2; exit 1
    fi
    if [[ ! "{{ digest }}" =~ ^sha256:[0-9a-f]{64}$ ]]; then
        echo "images: pass the digest of the base image: just images sha256:…" >&2
        echo "It is the Digest line of: docker buildx imagetools inspect python:3.11-slim-bookworm" >&2
        exit 1
    fi
    version="$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)"
    for image in node exporter; do
        "$engine" build --file "deployments/docker/$image.Dockerfile" \
            --build-arg "PYTHON_DIGEST={{ digest }}" --build-arg "VERSION=$version" \
            --build-arg "REVISION=$(git rev-parse HEAD)" --tag "distributed-llm-$image:$version" .
    done

# Write bills of materials (CycloneDX) of the pinned requirements to dist/
sbom: (_install "dev")
    @exec python -m deployments.release.sbom

# Write wheel, sdist, bills of materials and checksums to dist/; with a base's digest, images too
release digest="": (_install "dev")
    @exec python -m deployments.release {{ digest }}

# Run the images' build steps and their result in a clean Debian; needs root and debootstrap
check-images *base: (_install "dev")
    @exec python -m tests.deployments.check_images {{ base }}

# Start the units under a real systemd in a container; needs root, debootstrap and systemd-nspawn
check-units *base: (_install "dev")
    @exec python -m tests.deployments.check_units {{ base }}

# Remove the environment and every cache
clean:
    rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info build dist

[private]
_uv:
    @command -v uv >/dev/null || { echo "uv is missing: python3 -m venv .venv && .venv/bin/pip install uv" >&2; exit 1; }

# Install if the pinned requirements are newer than the installation.
[private]
_install set: _uv
    #!/usr/bin/env bash
    set -euo pipefail
    mark="{{ venv }}/.installed-{{ set }}"
    wanted="requirements/{{ set }}.txt"
    if [ "$mark" -nt "$wanted" ] && [ "$mark" -nt pyproject.toml ]; then exit 0; fi
    [ -x "{{ python }}" ] || uv venv --quiet --allow-existing --python '>=3.11' "{{ venv }}"
    uv pip install --quiet --python "{{ python }}" --require-hashes --requirement "$wanted"
    uv pip install --quiet --python "{{ python }}" --no-deps --editable .
    touch "$mark"
