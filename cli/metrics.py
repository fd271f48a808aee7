"""`lorajob metrics`."""

import click

from lorajob.cli.service import load_settings


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=9808, show_default=True)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Interface to listen on. Any other than loopback should have TLS in front of it.",
)
@click.option("--insecure", is_flag=True, help="Listen elsewhere without a password.")
def metrics(port: int, host: str, insecure: bool) -> None:
    """Serve the service's metrics to Prometheus at /metrics, until Ctrl-C.

    One exporter tells of all workers and jobs; it reads Redis. Where LORAJOB_METRICS_PASSWORD is
    set it is asked for, as bearer token or as basic auth of the user lorajob; where others can
    reach the port it must be set. /healthz needs none.
    """
    from lorajob.worker.monitoring.exporter import run_exporter

    run_exporter(load_settings(), host, port, insecure)
