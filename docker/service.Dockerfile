# The service and its models; no torch, no compiler, not root. `docker build -f docker/service.Dockerfile .`
ARG BASE_IMAGE=python:3.12-slim-bookworm

# The op library: compiled where a compiler is, copied to where none is.
FROM ${BASE_IMAGE} AS kernels
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY constraints.txt ./
RUN python3 -m venv /opt/build && /opt/build/bin/pip install --no-cache-dir -c constraints.txt cmake ninja
COPY export/__init__.py export/
COPY export/kernels export/kernels
RUN /opt/build/bin/python -m export.kernels.build --cuda off

FROM ${BASE_IMAGE} AS packages
WORKDIR /src
RUN python3 -m venv /opt/service
COPY constraints.txt pyproject.toml ./
# The dependencies alone: they change less often than the code, so this layer is kept.
RUN python3 -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print("\n".join(p["dependencies"] + p["optional-dependencies"]["serving"] + ["onnxruntime"]))' > requirements.txt \
    && /opt/service/bin/pip install --no-cache-dir -c constraints.txt -r requirements.txt

FROM ${BASE_IMAGE} AS service
LABEL org.opencontainers.image.title="deep-delta-serving" \
      org.opencontainers.image.description="Serves delta networks and shows their gates" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --system --gid 10001 ddl \
    && useradd --system --uid 10001 --gid ddl --no-create-home --shell /usr/sbin/nologin ddl
COPY --from=packages /opt/service /opt/service
WORKDIR /srv
COPY service service
COPY --from=kernels /src/service/runtime/lib service/runtime/lib
COPY models models
ENV PATH=/opt/service/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 DDL_HOST=0.0.0.0 DDL_PORT=8000
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=2s --start-period=20s --retries=3 \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=1.5)"]
CMD ["python3", "-m", "service"]
