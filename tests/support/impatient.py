"""The worker's application with a broker that redelivers after five seconds."""

import logging

from celery import signals
from kombu.transport.redis import QoS

from lorajob.worker.app import app

__all__ = ["app"]
IMPATIENT = {"visibility_timeout": 5, "unacked_restore_limit": 1}
restore_visible = QoS.restore_visible
# Kombu looks every 10 s and restores at each tenth look. Here it restores at each.
QoS.restore_visible = lambda self, start=0, num=10, interval=10: restore_visible(
    self, start, num, 1
)
app.conf.broker_transport_options = app.conf.broker_transport_options | IMPATIENT


@signals.worker_ready.connect
def say(sender, **_):
    """So that a test can see that the setting reached the broker's client."""
    with sender.app.connection_for_read() as connection:
        channel = connection.default_channel
        logging.getLogger(__name__).warning("visibility_timeout %s", channel.visibility_timeout)
