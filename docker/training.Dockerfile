# Training, evaluation, studies and export, with torch. `docker build -f docker/training.Dockerfile -t deep-delta-training:dev .`
# The package index's torch brings CUDA along. For a CPU build hand pip another index, --build-arg PIP_EXTRA_INDEX_URL=URL,
# or a folder of wheels, --build-context wheels=DIR.
ARG BASE_IMAGE=python:3.12-slim-bookworm

FROM scratch AS wheels

FROM ${BASE_IMAGE} AS training
ARG PIP_NO_INDEX=0
ARG PIP_EXTRA_INDEX_URL=
ARG VERSION=development
ARG REVISION=unknown
LABEL org.opencontainers.image.title="deep-delta-training" \
      org.opencontainers.image.description="Trains delta networks and exports them for serving" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# The compiler stays: torch.compile and the op library need it where the network runs. torch.compile includes Python.h,
# which Debian's Python keeps in a package of its own.
# hadolint ignore=DL3008,SC2046
RUN apt-get update && apt-get install --yes --no-install-recommends g++ \
    $(test -e "$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" || echo python3-dev) \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 10001 ddl \
    && useradd --system --uid 10001 --gid ddl --no-create-home --shell /usr/sbin/nologin ddl \
    && install -d -o ddl -g ddl /training/runs /training/data /training/models
WORKDIR /src
COPY constraints.txt pyproject.toml ./
RUN --mount=type=bind,from=wheels,target=/wheels python3 -m venv /opt/training \
    && python3 -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print("\n".join(r for r in p["dependencies"] + [r for e in ("model", "train", "data", "export", "kernels") for r in p["optional-dependencies"][e]] if not r.startswith("deep-delta")))' > requirements.txt \
    && /opt/training/bin/pip install --no-cache-dir --find-links /wheels -c constraints.txt -r requirements.txt
COPY ddl_model ddl_model
COPY export export
COPY service service
ENV PATH=/opt/training/bin:$PATH PYTHONPATH=/src PYTHONUNBUFFERED=1 HOME=/tmp
RUN python3 -m export.kernels.build --cuda off
USER 10001:10001
WORKDIR /training
VOLUME ["/training/runs", "/training/data", "/training/models"]
HEALTHCHECK NONE
CMD ["python3", "-m", "ddl_model.training", "--help"]
