"""nginx as a proxy before our server, configured as in docs/deployment.md."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

from support.certificates import write_certificate
from support.programs import need_program
from support.server_process import wait_for

_CONF = """\
daemon off; master_process off; pid nginx.pid; error_log error.log;
{user}
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path tmp; proxy_temp_path tmp; fastcgi_temp_path tmp;
  uwsgi_temp_path tmp; scgi_temp_path tmp;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {certificate}; ssl_certificate_key {key};
    {location}
  }}
}}
"""


_PAGE = Path(__file__).resolve().parents[1] / "docs" / "deployment.md"


def location(prefix: str, upstream: int) -> str:
    """Return the lines for nginx in docs/deployment.md, with another prefix and port."""
    lines = _PAGE.read_text().partition("```nginx\n")[2].partition("```")[0]
    return lines.replace("/films/", f"{prefix}/").replace(":9980/", f":{upstream}/")


class Nginx:
    """nginx with TLS at `port`, which passes requests below `prefix` on to port `upstream`.

    A test that makes one is skipped if nginx is not installed.
    """

    def __init__(self, root: Path, upstream: int, prefix: str = "/films") -> None:
        program = need_program("nginx", "nginx-light")
        root = root.absolute()
        self.certificate, key = write_certificate(root / "tls")
        (root / "tmp").mkdir()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        conf = _CONF.format(
            user="user root;" if os.geteuid() == 0 else "",
            port=self.port,
            certificate=self.certificate,
            key=key,
            location=location(prefix, upstream),
        )
        (root / "nginx.conf").write_text(conf)
        self.url = f"https://127.0.0.1:{self.port}{prefix}"
        self._popen = subprocess.Popen(
            [program, "-p", f"{root}/", "-c", "nginx.conf", "-e", "error.log"]
        )
        wait_for(self._serves, alive=lambda: self._popen.poll() is None)

    def _serves(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """Stop it."""
        self._popen.terminate()
        self._popen.wait(30)
