"""A real ActiveMQ for tests and benchmarks: own folder, own port, and only its own processes are stopped.

Usable from a plain script::

    with ActiveMQ() as broker:
        broker.host, broker.port, broker.subscriber, broker.publisher
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal
from xml.sax.saxutils import quoteattr

CLASS_PATH_FOLDERS: Final = ("/usr/share/activemq/bin", "/usr/share/activemq/lib", "/usr/share/activemq/lib/optional")
START_TIMEOUT: Final = 60.0

_CONFIGURATION: Final = """\
<beans xmlns="http://www.springframework.org/schema/beans"
  xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
  xsi:schemaLocation="http://www.springframework.org/schema/beans http://www.springframework.org/schema/beans/spring-beans-2.0.xsd
  http://activemq.apache.org/schema/core http://activemq.apache.org/schema/core/activemq-core.xsd">
  <broker xmlns="http://activemq.apache.org/schema/core" useJmx="false" persistent="{persistent}" brokerName="test"
          dataDirectory="{folder}/data" schedulePeriodForDestinationPurge="0" advisorySupport="true">
    <plugins>
      <simpleAuthenticationPlugin>
        <users>
          {users}
        </users>
      </simpleAuthenticationPlugin>
      <authorizationPlugin>
        <map>
          <authorizationMap>
            <authorizationEntries>
              <authorizationEntry topic=">" read="readers" write="readers,writers" admin="readers,writers"/>
              <authorizationEntry queue=">" read="readers" write="readers,writers" admin="readers,writers"/>
              <authorizationEntry topic="ActiveMQ.Advisory.>" read="readers,writers" write="readers,writers"
                                  admin="readers,writers"/>
            </authorizationEntries>
          </authorizationMap>
        </map>
      </authorizationPlugin>
    </plugins>
    {usage}
    <transportConnectors>
      <transportConnector name="stomp" uri="stomp://{host}:{port}?transport.hbGracePeriodMultiplier=1.5{options}"/>
      {tls_connector}
    </transportConnectors>
  </broker>
</beans>
"""

_LOGGING: Final = """\
log4j.rootLogger=INFO, out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=%d %-5p %c{1} - %m%n
"""


@dataclass(frozen=True, slots=True)
class Login:
    """A user of the broker."""

    name: str
    passcode: str = field(repr=False)


def missing() -> str | None:
    """Return why ActiveMQ cannot be started here, or None."""
    if shutil.which("java") is None or not Path("/usr/share/activemq/lib/activemq-stomp.jar").exists():
        return "ActiveMQ is not installed: apt-get install activemq"
    return None


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class ActiveMQ:
    """One broker process with STOMP on a free port, which it keeps over restarts.

    :param host: loopback address to listen on (``127.0.0.2`` makes a second broker on the same port possible).
    :param port: STOMP port; None: a free one.
    :param tls_keystore: PKCS12 file with the server's key; None: no TLS. ``tls_port`` is then the port with TLS.
    :param tls_truststore: PKCS12 file of client CAs; given: client certificates are demanded.
    :param store_passcode: password of both stores.
    :param persistent: whether messages are kept on disk.
    :param heap_mb: size of the Java heap in MB.
    :param for_long: whether Java compiles as for a broker of days; else it starts with half the CPU.
    :param options: further options of the STOMP port, such as ``maximumConnections=2`` (joined by ``&``).
    :param full_disk: the store of persistent messages has no room: "block" keeps producers waiting, "fail" refuses
        their messages. Topics store only for durable subscribers.
    :param on_start: called with the process id of each broker process that is started.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int | None = None,
        tls_keystore: Path | None = None,
        tls_truststore: Path | None = None,
        store_passcode: str = "storepass",
        persistent: bool = False,
        heap_mb: int = 256,
        for_long: bool = False,
        options: str = "",
        full_disk: Literal["block", "fail"] | None = None,
        on_start: Callable[[int], None] | None = None,
    ) -> None:
        self.host = host
        self.port = port or free_port(host)
        self.tls_port = free_port(host) if tls_keystore else None
        self.subscriber = Login("airflow", "airflow-passcode-1")
        """May publish and subscribe."""
        self.publisher = Login("worker", "worker-passcode-2")
        """May publish, but not subscribe."""
        self.other = Login("panda", "panda-passcode-3")
        """Another user with all rights."""
        self._tls_keystore, self._tls_truststore, self._store_passcode = tls_keystore, tls_truststore, store_passcode
        self._persistent, self._heap_mb, self._on_start = persistent or full_disk is not None, heap_mb, on_start
        self._options, self._full_disk, self._for_long = options, full_disk, for_long
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ActiveMQ:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def connection(self, **extra: Any) -> dict[str, Any]:
        """Return an Airflow connection to this broker, as the environment has it; ``extra`` adds to its extras."""
        publisher = {"publisher_login": self.publisher.name, "publisher_password": self.publisher.passcode}
        return {
            "conn_type": "stomp",
            "host": f"{self.host}:{self.port}",
            "login": self.subscriber.name,
            "password": self.subscriber.passcode,
            "extra": {**publisher, **extra},
        }

    @property
    def log_file(self) -> Path:
        """Where the broker logs."""
        assert self._folder is not None, "not started"
        return self._folder / "activemq.log"

    @property
    def pid(self) -> int:
        """Process id of the running broker."""
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self) -> None:
        """Start the broker and wait until it takes a login."""
        reason = missing()
        if reason:
            raise RuntimeError(reason)
        folder = self._folder or Path(tempfile.mkdtemp(prefix="activemq-"))
        self._folder = folder
        (folder / "conf").mkdir(exist_ok=True)
        (folder / "data").mkdir(exist_ok=True)
        (folder / "conf/activemq.xml").write_text(self._configuration(folder))
        (folder / "conf/log4j.properties").write_text(_LOGGING)
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(folder),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=folder,
                start_new_session=True,
            )
        if self._on_start is not None:
            self._on_start(self._process.pid)
        self._await_login()

    def stop(self, *, kill: bool = True) -> None:
        """Stop the broker; its port and folder stay for :meth:`start`.

        :param kill: SIGKILL (what a crash looks like) instead of SIGTERM.
        """
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            # The broker leads its own session, so its group holds it and its children and nothing else.
            os.killpg(process.pid, signal.SIGCONT)
            os.killpg(process.pid, signal.SIGKILL if kill else signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def restart(self, *, down: float = 0.0) -> None:
        """Stop the broker, stay away for ``down`` seconds, and start it on the same port."""
        self.stop()
        time.sleep(down)
        self.start()

    def suspend(self) -> None:
        """Make the broker silent without closing a connection (SIGSTOP)."""
        os.killpg(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Undo :meth:`suspend` (SIGCONT)."""
        os.killpg(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Stop the broker and remove its folder."""
        self.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def connections(self) -> int:
        """Return how many TCP connections to the STOMP port are established, as the kernel counts them."""
        established = 0
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            path = Path(table)
            if not path.exists():
                continue
            for line in path.read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "01" and int(fields[1].rsplit(":", 1)[1], 16) == self.port:
                    established += 1
        return established

    def _configuration(self, folder: Path) -> str:
        groups = ((self.subscriber, "readers"), (self.publisher, "writers"), (self.other, "readers"))
        users = "\n          ".join(
            f'<authenticationUser username="{user.name}" password="{user.passcode}" groups="{group}"/>'
            for user, group in groups
        )
        tls = ""
        if self.tls_port:
            wanted = "?needClientAuth=true" if self._tls_truststore else ""
            tls = f'<transportConnector name="stomps" uri="stomp+ssl://{self.host}:{self.tls_port}{wanted}"/>'
        usage = ""
        if self._full_disk:
            fail = str(self._full_disk == "fail").lower()
            usage = (
                f'<systemUsage><systemUsage sendFailIfNoSpace="{fail}">'
                '<storeUsage><storeUsage limit="1 mb"/></storeUsage></systemUsage></systemUsage>'
            )
        return _CONFIGURATION.format(
            usage=usage,
            options=quoteattr("&" + self._options)[1:-1] if self._options else "",
            persistent=str(self._persistent).lower(),
            folder=folder,
            users=users,
            host=self.host,
            port=self.port,
            tls_connector=tls,
        )

    def _command(self, folder: Path) -> list[str]:
        jars = [str(jar) for name in CLASS_PATH_FOLDERS for jar in sorted(Path(name).glob("*.jar"))]
        properties = {
            "activemq.home": "/usr/share/activemq",
            "activemq.base": str(folder),
            "activemq.conf": str(folder / "conf"),
            "activemq.data": str(folder / "data"),
            "java.io.tmpdir": str(folder / "data"),
            "log4j.configuration": f"file:{folder}/conf/log4j.properties",
        }
        for kind, store in (("keyStore", self._tls_keystore), ("trustStore", self._tls_truststore)):
            if store is not None:
                properties[f"javax.net.ssl.{kind}"] = str(store)
                properties[f"javax.net.ssl.{kind}Password"] = self._store_passcode
                properties[f"javax.net.ssl.{kind}Type"] = "PKCS12"
        return [
            "java",
            f"-Xmx{self._heap_mb}m",
            "-XX:+UseSerialGC",
            "-Xshare:auto",
            *([] if self._for_long else ["-XX:TieredStopAtLevel=1"]),
            *(f"-D{name}={value}" for name, value in properties.items()),
            "-cp",
            ":".join(jars),
            "org.apache.activemq.console.Main",
            "start",
            f"xbean:file:{folder}/conf/activemq.xml",
        ]

    def _await_login(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                break
            if self._takes_login():
                return
            time.sleep(0.1)  # there is nothing to wait on but the port
        tail = self.log_file.read_text(errors="replace")[-3000:]
        self.stop()
        raise RuntimeError(f"ActiveMQ did not start on {self.host}:{self.port}:\n{tail}")

    def _takes_login(self) -> bool:
        frame = (
            f"CONNECT\naccept-version:1.2\nhost:test\nlogin:{self.subscriber.name}\n"
            f"passcode:{self.subscriber.passcode}\n\n\0"
        )
        try:
            with socket.create_connection((self.host, self.port), timeout=2) as probe:
                probe.sendall(frame.encode())
                return probe.recv(9) == b"CONNECTED"
        except OSError:
            return False
