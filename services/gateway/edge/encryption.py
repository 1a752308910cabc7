"""What the edge shows to clients: one certificate for HTTP and gRPC, which follows its files.

Comes in: the `edge.tls` section of the settings. Goes out: what an HTTP and a gRPC server take.
Invariant: each handshake sees the newest files that can be used; connections that are open stay as they are.
Not here: reading and checking the files (`services.runtime.certificates`).
"""

import ssl

import grpc

from services.gateway.edge.settings import EdgeTls
from services.link.transport import following_credentials
from services.runtime.certificates import CredentialFiles, LiveCredentials, PemFile
from services.runtime.metrics import Meters


class Encryption:
    """The certificate of one edge."""

    def __init__(self, tls: EdgeTls, meters: Meters) -> None:
        """Read the files.

        Raises:
            ConfigurationInvalid: one cannot be read or used, or two do not fit.
        """
        authorities = tls.client_authority_file
        files = CredentialFiles(
            certificate=PemFile(key="edge.tls.certificate_file", path=tls.certificate_file),
            private_key=PemFile(key="edge.tls.key_file", path=tls.key_file),
            authorities=None
            if authorities is None
            else PemFile(key="edge.tls.client_authority_file", path=authorities),
        )
        self._live = LiveCredentials(files, listener="edge", meters=meters)

    def http_context(self) -> ssl.SSLContext:
        """Make the context of a listening socket, which gives way to the newest one at each handshake."""
        context = self._live.current().context

        def renew(handshake: ssl.SSLObject, name: str | None, first: ssl.SSLContext) -> None:
            """Python calls this for each client, also for one that names no server."""
            del name, first
            handshake.context = self._live.current().context

        context.sni_callback = renew
        return context

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """Make the credentials of a listening port."""
        return following_credentials(self._live)
