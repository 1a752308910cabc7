"""Values of the chart about what surrounds the programs: encryption, network, priorities, monitoring."""

from msgspec import field

from services.cli.chart.keys import ChartSection, Object, Texts


class Certificates(ChartSection, frozen=True, kw_only=True):
    """One hop's encryption."""

    enabled: bool = False
    """Encrypt it."""
    secret_name: str = ""
    """A Secret with tls.crt, tls.key and ca.crt; empty has cert-manager make one."""


class EdgeCertificates(Certificates, frozen=True, kw_only=True):
    """Encryption towards clients."""

    issuer: Object = {}
    """Another issuer of cert-manager than `tls.issuer`."""
    hosts: list[str] = []
    """Names for which cert-manager makes the certificate; empty takes those of the gateways' Service."""
    client_secret_name: str = ""
    """A Secret with ca.crt, the authorities that sign clients; who has no certificate of theirs is refused.
    Empty asks for none."""


class Tls(ChartSection, frozen=True, kw_only=True):
    """Encryption of all that listens, but for metrics and probes on port 9090."""

    issuer: Object = {}
    """Issuer of cert-manager: name, kind, group."""
    edge: EdgeCertificates = EdgeCertificates()
    """HTTP and gRPC of gateways, towards clients and the ingress."""
    links: Certificates = Certificates()
    """Gateways with workers and with a standalone router, mutual; a given certificate names
    `workers.baton.internal`."""
    nats: Certificates = Certificates()
    """Everybody towards NATS, and NATS servers among themselves."""


class NetworkPolicy(ChartSection, frozen=True, kw_only=True):
    """Who may talk to whom."""

    enabled: bool = True
    """Allow what is needed and nothing else; the cluster's network must enforce it."""
    clients: list[Object] = []
    """Peers that may call gateways; empty allows everybody."""
    monitoring: list[Object] = []
    """Peers that may read metrics; empty allows everybody, of gateways only while `clients` does."""


class PriorityClasses(ChartSection, frozen=True, kw_only=True):
    """Which pods go first when nodes are full."""

    enabled: bool = False
    """Make two classes, for the control plane and for workers; they belong to the whole cluster."""


class PodMonitors(ChartSection, frozen=True, kw_only=True):
    """Scraping by the Prometheus operator."""

    enabled: bool = False
    """Make PodMonitors."""
    labels: Texts = {}
    """Labels that the operator selects by."""


class Rules(ChartSection, frozen=True, kw_only=True):
    """Alerts."""

    enabled: bool = False
    """Make a PrometheusRule."""
    labels: Texts = {}
    """Labels that the operator selects by."""


class Dashboard(ChartSection, frozen=True, kw_only=True):
    """A Grafana dashboard."""

    enabled: bool = False
    """Make a ConfigMap that Grafana's sidecar finds."""
    labels: Texts = field(default_factory=lambda: {"grafana_dashboard": "1"})
    """Labels that the sidecar selects by."""


class Monitoring(ChartSection, frozen=True, kw_only=True):
    """What watches over Baton."""

    pod_monitors: PodMonitors = PodMonitors()
    rules: Rules = Rules()
    dashboard: Dashboard = Dashboard()
