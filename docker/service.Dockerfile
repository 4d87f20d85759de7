# The service and its models; no torch, no compiler, not root. `docker build -f docker/service.Dockerfile .` makes the
# image for CPUs, `--target cuda` the one for NVIDIA cards, whose host needs the driver and the container toolkit alone.
ARG BASE_IMAGE=python:3.12-slim-bookworm

# Wheels from a folder instead of an index: --build-context wheels=DIR --build-arg PIP_NO_INDEX=1.
FROM scratch AS wheels

# The op library: compiled where a compiler is, copied to where none is.
FROM ${BASE_IMAGE} AS compiler
ARG PIP_NO_INDEX=0
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY constraints.txt ./
RUN --mount=type=bind,from=wheels,target=/wheels python3 -m venv /opt/build \
    && /opt/build/bin/pip install --no-cache-dir --find-links /wheels -c constraints.txt cmake ninja

FROM compiler AS kernels-cpu
COPY export/__init__.py export/
COPY export/kernels export/kernels
RUN /opt/build/bin/python -m export.kernels.build --cuda off

FROM compiler AS kernels-cuda
ARG PIP_NO_INDEX=0
# As CMake writes them: 90 is one generation, 80-real;90-real;100 several. Empty: Ampere and newer, which takes minutes.
ARG CUDA_ARCHITECTURES=
# Release 13 of the toolkit, in wheels.
# hadolint ignore=DL3013
RUN --mount=type=bind,from=wheels,target=/wheels /opt/build/bin/pip install --no-cache-dir --find-links /wheels \
    "nvidia-cuda-nvcc==13.0.*" "nvidia-cuda-crt==13.0.*" "nvidia-nvvm==13.0.*" "nvidia-cuda-runtime==13.0.*" \
    "nvidia-cuda-cccl==13.0.*" \
    && ln -s /opt/build/lib/python3*/site-packages/nvidia/cu13 /opt/cuda \
    && ln -s lib /opt/cuda/lib64 && ln -s libcudart.so.13 /opt/cuda/lib/libcudart.so
COPY export/__init__.py export/
COPY export/kernels export/kernels
RUN CUDACXX=/opt/cuda/bin/nvcc /opt/build/bin/python -m export.kernels.build --cuda on \
    ${CUDA_ARCHITECTURES:+--arch "${CUDA_ARCHITECTURES}"}

FROM ${BASE_IMAGE} AS requirements
# Extras of pyproject.toml; packages of stores (s3fs, gcsfs, ...) can be added in an image of your own.
ARG EXTRAS="serving oidc otel stores"
WORKDIR /src
COPY constraints.txt pyproject.toml ./
# The dependencies alone: they change less often than the code, so this layer is kept.
RUN python3 -c 'import sys, tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print("\n".join(p["dependencies"] + [r for e in sys.argv[1:] for r in p["optional-dependencies"][e]]))' ${EXTRAS} > requirements.txt

FROM requirements AS packages-cpu
ARG PIP_NO_INDEX=0
RUN --mount=type=bind,from=wheels,target=/wheels python3 -m venv /opt/service \
    && /opt/service/bin/pip install --no-cache-dir --no-compile --find-links /wheels -c constraints.txt -r requirements.txt onnxruntime \
    && /opt/service/bin/pip uninstall --yes --quiet pip setuptools

FROM requirements AS packages-cuda
ARG PIP_NO_INDEX=0
# hadolint ignore=DL3013
RUN --mount=type=bind,from=wheels,target=/wheels python3 -m venv /opt/service \
    && /opt/service/bin/pip install --no-cache-dir --no-compile --find-links /wheels -c constraints.txt -r requirements.txt "onnxruntime-gpu[cuda,cudnn]>=1.31" \
    && /opt/service/bin/pip uninstall --yes --quiet pip setuptools

FROM ${BASE_IMAGE} AS service
ARG VERSION=development
ARG REVISION=unknown
LABEL org.opencontainers.image.title="deep-delta-serving" \
      org.opencontainers.image.description="Serves delta networks and shows their gates" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --system --gid 10001 ddl \
    && useradd --system --uid 10001 --gid ddl --no-create-home --shell /usr/sbin/nologin ddl \
    && install -d -o ddl -g ddl /state
WORKDIR /srv
COPY service service
COPY models models
# What is kept over restarts (usage, models fetched from a store) goes to /state, a volume; the rest is read-only.
ENV PATH=/opt/service/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/state \
    DDL_HOST=0.0.0.0 DDL_PORT=8000 DDL_GRPC_PORT=8001 DDL_CACHE_FOLDER=/state/models
USER 10001:10001
EXPOSE 8000 8001
VOLUME ["/state"]
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=2s --start-period=20s --retries=3 \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=1.5)"]
CMD ["python3", "-m", "service"]

FROM service AS cuda
COPY --from=packages-cuda /opt/service /opt/service
COPY --from=kernels-cuda /src/service/runtime/lib service/runtime/lib
USER 0
# CUDA and cuDNN lie among the packages; the loader has to know where.
RUN find /opt/service/lib -type d -path '*/nvidia/*/lib' > /etc/ld.so.conf.d/service.conf && ldconfig
USER 10001:10001
ENV DDL_PROVIDER=cuda NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM service AS cpu
COPY --from=packages-cpu /opt/service /opt/service
COPY --from=kernels-cpu /src/service/runtime/lib service/runtime/lib
