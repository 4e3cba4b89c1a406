"""Write the generated files of this directory: `python -m deployments.prometheus`."""

from deployments.addresses import read_addresses
from deployments.prometheus.kubernetes import write_operator, write_prometheus
from deployments.prometheus.links import ALERTS, HERE, link_alerts, link_expectations


def main() -> None:
    """Write the links first, because the Kubernetes objects contain the rules."""
    addresses = read_addresses()
    ALERTS.write_text(link_alerts(ALERTS.read_text(), addresses))
    for file in (HERE / "tests").glob("*.yaml"):
        file.write_text(link_expectations(file.read_text(), addresses))
    (HERE / "prometheus-k8s.yaml").write_text(write_prometheus())
    (HERE / "prometheus-operator.yaml").write_text(write_operator())


if __name__ == "__main__":
    main()
