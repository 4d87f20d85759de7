# In Grafana's place where its image cannot be had; built on the service's image for its Python and YAML.
ARG BASE_IMAGE=deep-delta-serving:dev
FROM ${BASE_IMAGE}
COPY grafana.py /standin/grafana.py
USER 65534
EXPOSE 3000
HEALTHCHECK --interval=2s --timeout=2s --retries=10 \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:3000/api/health', timeout=1.5)"]
CMD ["python3", "/standin/grafana.py"]
