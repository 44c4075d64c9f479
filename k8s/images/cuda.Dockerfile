# Head, workers and jobs on NVIDIA GPUs. Built from the repository's root:
#   docker build -f k8s/images/cuda.Dockerfile -t raymill:0.1.0-cuda .
# Where packages come from other servers: --secret id=pip,src=pip.conf (it stays out of the image).
ARG BASE=docker.io/library/python:3.11.14-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
COPY k8s/images/build.sh k8s/images/cuda.lock k8s/images/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    k8s/images/build.sh packages k8s/images/cuda.lock /opt/raymill
COPY pyproject.toml README.md LICENSE ./
COPY cluster cluster
COPY evals evals
COPY k8s k8s
COPY pipelines pipelines
COPY serving serving
RUN k8s/images/build.sh raymill . /opt/raymill

FROM ${BASE}
LABEL org.opencontainers.image.title="raymill" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
# CUDA comes with the packages, the driver with the node. gcc: Triton compiles what it launches.
# openssl: KubeRay's pods wait with it for their certificate. wget: its probe of served models.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends "gcc=4:12.2.0-*" "libc6-dev=2.36-*" "openssl=3.0.*" "wget=1.21.3-*" \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 raymill \
    && useradd --uid 1000 --gid 1000 --create-home --shell /usr/sbin/nologin raymill
COPY --from=build /opt/raymill /opt/raymill
ENV PATH=/opt/raymill/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    VLLM_NO_USAGE_STATS=1 \
    DO_NOT_TRACK=1
USER 1000:1000
WORKDIR /home/raymill
ENTRYPOINT []
CMD ["raymill", "--help"]
