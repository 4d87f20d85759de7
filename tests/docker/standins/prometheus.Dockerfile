# Debian's Prometheus with the ways of the official image: user nobody, /prometheus, wget.
ARG BASE_IMAGE=python:3.12-slim-bookworm
FROM ${BASE_IMAGE}
COPY usr/bin/prometheus usr/bin/promtool /usr/bin/
RUN install -d -o 65534 -g 65534 /prometheus /etc/prometheus && ln -s /bin/busybox /usr/local/bin/wget
USER 65534
WORKDIR /prometheus
VOLUME ["/prometheus"]
EXPOSE 9090
ENTRYPOINT ["/usr/bin/prometheus"]
