"""Notifications of jobs that have ended: to a webhook, to Slack, and to the job's trace.

Every worker with such a receiver in its settings takes deliveries one by one, in a thread for each
channel in its main process, so that no stage and no other channel waits for a web server. A
delivery that fails is kept in Redis and tried again with growing pauses for a day. A worker that
dies after it sent one may leave it to be sent twice, under the same id.
"""

import asyncio
import hashlib
import hmac
import json
import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from celery import signals
from redis.exceptions import RedisError

from lorajob import __version__
from lorajob.errors import LorajobError
from lorajob.job.results import headline
from lorajob.tasks.describe import describe
from lorajob.tasks.words import language_of
from lorajob.worker import lifecycle
from lorajob.worker.connect import connect
from lorajob.worker.monitoring import tallies, traces
from lorajob.worker.records import notices
from lorajob.worker.records.notices import Delivery, Parcel
from lorajob.worker.records.record import JobRecord
from lorajob.worker.records.records import Records
from lorajob.worker.settings import Settings
from lorajob.worker.ticker import Ticker

LOOK_SECONDS = 1.0
WANT_SECONDS = 3600.0
FIRST_PAUSE_SECONDS = 1.0  # it doubles with each try
LONGEST_PAUSE_SECONDS = 3600.0
GIVE_UP_SECONDS = 86_400.0  # after the first try
TIMEOUT_SECONDS = 5.0
END_SECONDS = 5.0  # for the last notice, when a worker ends
ANSWER_SECONDS = 10.0  # from the look-up of the host's name to the end of the answer's headers
WEBHOOK, SLACK, TRACE = "webhook", "slack", "trace"

logger = logging.getLogger(__name__)


class Notifier:
    """Takes the deliveries to one channel and sends them, in the turns of its ticker."""

    def __init__(self, settings: Settings, channel: str) -> None:
        self._settings = settings
        self._channel = channel
        self._redis = connect(settings)
        self._records = Records(self._redis, settings.place_of)
        self._looks = 0
        self.ticker = Ticker(f"notices-{channel}", LOOK_SECONDS, self.turn, self.turn, END_SECONDS)

    def turn(self) -> None:
        """Send all deliveries that are due, until one fails; also when a worker ends."""
        try:
            if self._looks % int(WANT_SECONDS / LOOK_SECONDS) == 0:
                notices.want(self._redis)
            self._looks += 1
            notices.plan(self._redis, channels(self._settings))
            while (delivery := notices.take(self._redis, self._channel)) is not None:
                if not self._try(delivery):
                    break
        except (RedisError, OSError) as error:
            self._looks = 0
            logger.debug("no notices without Redis: %s", error)

    def _try(self, delivery: Delivery) -> bool:
        """Send a delivery. If that fails, keep it for later, or give it up after a day."""
        try:
            kept = delivery.kept if delivery.kept.id else self._first(delivery)
        except LorajobError as error:  # the job was removed, or its record is damaged
            logger.warning("%s %s: no notice: %s", delivery.job_id, delivery.state, error)
            notices.finish(self._redis, delivery)
            return True
        if tell(delivery, kept, self._settings):
            notices.finish(self._redis, delivery)
            tallies.noticed(self._redis, self._channel, "sent")
            return True
        name = f"{delivery.job_id} {delivery.state}: the {self._channel}"
        tallies.noticed(self._redis, self._channel, "failed")
        if delivery.now - kept.since >= GIVE_UP_SECONDS:
            notices.finish(self._redis, delivery)
            tallies.noticed(self._redis, self._channel, "undelivered")
            logger.error("%s did not take it at %d tries; it is given up", name, kept.tries + 1)
            return False
        pause = min(FIRST_PAUSE_SECONDS * 2**kept.tries, LONGEST_PAUSE_SECONDS)
        kept = kept.model_copy(update={"tries": kept.tries + 1})
        notices.put_off(self._redis, delivery, kept, pause)
        logger.warning("%s did not take it; it is tried again in %g s", name, pause)
        return False

    def _first(self, delivery: Delivery) -> Parcel:
        """Keep what to send, from the record as it is at the first try. Raises LorajobError."""
        record = self._records.load(delivery.job_id)
        # A job may be deleted and submitted again under its id.
        name = f"{record.id}-{delivery.revision}.{record.created_at:.0f}"
        body = ""
        if self._channel == WEBHOOK:
            body = json.dumps(describe(record), ensure_ascii=False)
        elif self._channel == SLACK:
            text = escaped(sentence(record, delivery.state))
            body = json.dumps({"text": text}, ensure_ascii=False)
        else:
            traces.tell_job(record, delivery.state)
        kept = Parcel(id=name, body=body, since=delivery.now)
        notices.put_off(self._redis, delivery, kept, notices.HOLD_SECONDS)
        return kept


def channels(settings: Settings) -> list[str]:
    """The names of the receivers in the settings."""
    wanted = {
        WEBHOOK: settings.webhook_url is not None,
        SLACK: settings.slack_webhook_url is not None,
        TRACE: traces.enabled(),
    }
    return [channel for channel, there in wanted.items() if there]


def tell(delivery: Delivery, kept: Parcel, settings: Settings) -> bool:
    """Try a delivery once; True if it was accepted. The trace has ended before."""
    url = {WEBHOOK: settings.webhook_url, SLACK: settings.slack_webhook_url}.get(delivery.channel)
    if url is None:
        return True
    body = kept.body.encode()
    headers = {}
    if delivery.channel == WEBHOOK:
        headers = {"X-Lorajob-Event": delivery.state, "X-Lorajob-Delivery": kept.id}
        if settings.webhook_secret is not None:
            key = settings.webhook_secret.get_secret_value()
            headers["X-Lorajob-Signature"] = signature(key, body)
    return post(url.get_secret_value(), body, headers)


def signature(secret: str, body: bytes) -> str:
    """The signature that a receiver checks: HMAC-SHA256 of the body as sent."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def post(url: str, body: bytes, headers: Mapping[str, str]) -> bool:
    """POST JSON once; True if the server accepted it.

    The url is a secret, so the log names only the kind of an error, whose text may hold the url.
    """
    if not url.startswith(("https://", "http://")):
        logger.warning("a webhook's url must begin with https:// or http://")
        return False
    # Not imported above: every worker loads this module, and few have a webhook.
    import aiohttp

    kinds = {"Content-Type": "application/json", "User-Agent": f"lorajob/{__version__}"}
    try:
        status = asyncio.run(_post_once(url, body, kinds | dict(headers)))
    except (OSError, ValueError, aiohttp.ClientError) as error:
        logger.info("a webhook does not answer: %s", type(error).__name__)
        return False
    if not 200 <= status < 300:
        logger.info("a webhook answered %d", status)
    return 200 <= status < 300


async def _post_once(url: str, body: bytes, headers: Mapping[str, str]) -> int:
    """The status of the answer.

    The `total` timeout cuts off a server that sends a byte now and then. Redirects are not
    followed: the request would become a GET without its body, to an address that the answer names.
    """
    import aiohttp

    timeout = aiohttp.ClientTimeout(
        total=ANSWER_SECONDS, sock_connect=TIMEOUT_SECONDS, sock_read=TIMEOUT_SECONDS
    )
    parts = urlsplit(url)
    # aiohttp's trust_env would also send a password from ~/.netrc, so the proxy is read here.
    proxy = None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.post(
            url, data=body, headers=headers, proxy=proxy, allow_redirects=False
        ) as response,
    ):
        return response.status


def sentence(record: JobRecord, state: str) -> str:
    """The text for people: `hi (hi-1a2b3c4d) has succeeded: WER 207.3 % -> 52.0 %`."""
    text = f"{record.language} ({record.id}) {_verb(state)}"
    if state == "failed" and record.error:
        return f"{text}: {record.error}"
    scores = record.scores
    after = headline(scores)
    if "base" in scores and after is not None:
        base, now = scores["base"], scores[after]
        few = f" ({base.clips:,} clips)" if base.clips < now.clips else ""
        metric = language_of(record.language).primary_metric
        text += f": {metric.upper()} {base.rate(metric):.1f} %{few} -> {now.rate(metric):.1f} %"
    return text


def escaped(text: str) -> str:
    """The text with the characters of Slack's markup escaped."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _verb(state: str) -> str:
    return "was cancelled" if state == "cancelled" else f"has {state}"


def start(**_: Any) -> None:
    """Start a notifier for each receiver in the settings, in a ready worker's main process."""
    settings = Settings()
    for channel in channels(settings):
        lifecycle.run(Notifier(settings, channel).ticker)


signals.worker_ready.connect(start)
