# syntax=docker/dockerfile:1
# Operator and runner:  docker build --file images/videojob.Dockerfile --tag videojob:0.1.0 .
# The tests run on this version of Python. Pin a digest of it in your build: --build-arg BASE=python@sha256:...
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

RUN --mount=type=bind,source=images,target=/source/images \
    /source/images/install.sh packages /opt/videojob videojob
RUN --mount=type=bind,source=images,target=/source/images \
    --mount=type=bind,source=operator,target=/source/operator \
    --mount=type=bind,source=model_repo,target=/source/model_repo \
    /source/images/install.sh code /opt/videojob videojob

ENV PATH=/opt/videojob/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
# The pod's command decides what runs: python -m videojob.controller or python -m videojob.runner.
