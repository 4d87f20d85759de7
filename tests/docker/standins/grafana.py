"""A stand-in for Grafana: reads its provisioning and runs every panel's queries against the data source named there.

`GET /api/health` answers when the provisioning could be read; `GET /panels?seconds=60` answers with each query and
Prometheus' answer to it, over that time until now.
"""

import http.server
import json
import time
import urllib.parse
import urllib.request
from pathlib import Path

import yaml

PROVISIONING = Path("/etc/grafana/provisioning")


def sources():
    """Return the URL of each data source by its uid."""
    found = {}
    for file in PROVISIONING.glob("datasources/*.yml"):
        found |= {one["uid"]: one["url"] for one in yaml.safe_load(file.read_text("utf-8"))["datasources"]}
    return found


def dashboards():
    """Return every provisioned dashboard."""
    for file in PROVISIONING.glob("dashboards/*.yml"):
        for provider in yaml.safe_load(file.read_text("utf-8"))["providers"]:
            yield from (
                json.loads(one.read_text("utf-8")) for one in sorted(Path(provider["options"]["path"]).glob("*.json"))
            )


def query(url, expression, seconds):
    """Run one query over the last `seconds`, with Grafana's variables replaced."""
    written = expression.replace("$__rate_interval", "20s").replace("$model", ".*")
    now = time.time()
    form = {"query": written, "start": now - seconds, "end": now, "step": max(1, seconds // 60)}
    try:
        with urllib.request.urlopen(f"{url}/api/v1/query_range?{urllib.parse.urlencode(form)}", timeout=10) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return json.load(error)


def panels(seconds):
    """Run every query of every panel."""
    known = sources()
    for dashboard in dashboards():
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                answer = query(known[panel["datasource"]["uid"]], target["expr"], seconds)
                named = {"dashboard": dashboard["title"], "panel": panel["title"], "expr": target["expr"]}
                yield named | {"legend": target.get("legendFormat", ""), "answer": answer}


class Handler(http.server.BaseHTTPRequestHandler):
    """The two paths."""

    def do_GET(self):
        """Answer with JSON."""
        path = urllib.parse.urlsplit(self.path)
        if path.path == "/api/health":
            body = {"database": "ok", "dashboards": len(list(dashboards())), "sources": len(sources())}
        else:
            body = list(panels(int(urllib.parse.parse_qs(path.query).get("seconds", ["60"])[0])))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_):
        """Write nothing."""


if __name__ == "__main__":
    http.server.ThreadingHTTPServer(("0.0.0.0", 3000), Handler).serve_forever()
