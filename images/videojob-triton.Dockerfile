# syntax=docker/dockerfile:1
# Triton with the models' environment:  docker build --file images/videojob-triton.Dockerfile --tag videojob-triton:0.1.0 .
#
# 25.10 has what the lock asks for: Ubuntu 24.04 with Python 3.12, for which its python backend is built, and CUDA 13.0 like
# PyTorch's own CUDA libraries in the lock, so that both want the same driver; NVIDIA's release notes of 25.10 name it. Pin a digest
# of it in your build: --build-arg BASE=nvcr.io/nvidia/tritonserver@sha256:...
ARG BASE=nvcr.io/nvidia/tritonserver:25.10-py3
FROM ${BASE}

# python3.12, not python3: the build fails where the base has another Python than the lock and the python backend.
RUN --mount=type=bind,source=images,target=/source/images \
    PYTHON=python3.12 /source/images/install.sh packages /opt/videojob triton
RUN --mount=type=bind,source=images,target=/source/images \
    --mount=type=bind,source=operator,target=/source/operator \
    --mount=type=bind,source=model_repo,target=/source/model_repo \
    /source/images/install.sh code /opt/videojob triton

# After the base's own, whose Python is Triton's.
ENV PATH=${PATH}:/opt/videojob/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
ENTRYPOINT ["videojob-triton"]
