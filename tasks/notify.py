"""Notifications of jobs that have ended: to a webhook, to Slack, and to the job's trace.

Every worker with such a receiver in its settings takes the notices one by one, in a thread of its
main process, so that no stage waits for a web server. A worker takes a notice before it sends it:
if the worker dies in between, the notice is lost, but no end of a job is reported twice.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from celery import signals
from redis.exceptions import RedisError

from lorajob import __version__
from lorajob.errors import LorajobError
from lorajob.tasks.describe import describe
from lorajob.worker import lifecycle
from lorajob.worker.connect import connect
from lorajob.worker.monitoring import tallies, traces
from lorajob.worker.records import notices
from lorajob.worker.records.notices import Notice
from lorajob.worker.records.record import JobRecord
from lorajob.worker.records.records import Records
from lorajob.worker.settings import Settings
from lorajob.worker.ticker import Ticker

LOOK_SECONDS = 1.0
WANT_SECONDS = 3600.0
TRIES = 4
FIRST_PAUSE_SECONDS = 1.0
TIMEOUT_SECONDS = 5.0
END_SECONDS = 5.0  # for the last notice, when a worker ends
ANSWER_SECONDS = 10.0  # from the look-up of the host's name to the end of the answer's headers

logger = logging.getLogger(__name__)


class Notifier:
    """Takes notices and sends them, in the turns of its ticker."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._redis = connect(settings)
        self._records = Records(self._redis, settings.place_of)
        self._looks = 0
        self.ticker = Ticker("notices", LOOK_SECONDS, self.turn, self.turn, END_SECONDS)

    def turn(self) -> None:
        """Send all notices that are left; the last turn of a worker does so within seconds."""
        while self._tell_next():
            pass

    def _tell_next(self) -> bool:
        """Send the oldest notice; False if there is none or Redis is unavailable."""
        try:
            if self._looks % int(WANT_SECONDS / LOOK_SECONDS) == 0:
                notices.want(self._redis)
            self._looks += 1
            notice = notices.take(self._redis)
            if notice is None:
                return False
            record = self._records.load(notice.job_id)
        except (RedisError, OSError) as error:
            self._looks = 0
            logger.debug("no notices without Redis: %s", error)
            return False
        except LorajobError as error:  # the job was removed
            logger.info("no notice: %s", error)
            return True
        for channel, told in tell(notice, record, self._settings, self.ticker.stopped).items():
            tallies.noticed(self._redis, channel, told)
        return True


def tell(
    notice: Notice, record: JobRecord, settings: Settings, stop: threading.Event
) -> dict[str, bool]:
    """Send one notice to all channels; return which of them accepted it.

    Does not retry once `stop` is set.
    """
    traces.tell_job(record, notice.state)
    told = {}
    if settings.webhook_url is not None:
        body = json.dumps(describe(record), ensure_ascii=False).encode()
        headers = {
            "X-Lorajob-Event": notice.state,
            "X-Lorajob-Delivery": f"{notice.job_id}-{notice.revision}",
        }
        if settings.webhook_secret is not None:
            key = settings.webhook_secret.get_secret_value()
            headers["X-Lorajob-Signature"] = signature(key, body)
        told["webhook"] = post(settings.webhook_url.get_secret_value(), body, headers, stop)
    if settings.slack_webhook_url is not None:
        text = escaped(sentence(record, notice.state))
        body = json.dumps({"text": text}, ensure_ascii=False).encode()
        told["slack"] = post(settings.slack_webhook_url.get_secret_value(), body, {}, stop)
    for channel, done in told.items():
        if not done:
            logger.warning("%s %s: the %s did not take it", record.id, notice.state, channel)
    return told


def signature(secret: str, body: bytes) -> str:
    """The signature that a receiver checks: HMAC-SHA256 of the body as sent."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def post(url: str, body: bytes, headers: Mapping[str, str], stop: threading.Event) -> bool:
    """POST JSON, and retry if the server is busy or unavailable; True if the server accepted it.

    The url is a secret, so the log names only the kind of an error, whose text may hold the url.
    """
    if not url.startswith(("https://", "http://")):
        logger.warning("a webhook's url must begin with https:// or http://")
        return False
    kinds = {"Content-Type": "application/json", "User-Agent": f"lorajob/{__version__}"}
    for attempt in range(TRIES):
        try:
            status = asyncio.run(_post_once(url, body, kinds | dict(headers)))
            if 200 <= status < 300:
                return True
            logger.info("a webhook answered %d", status)
            if status < 500 and status not in (408, 429):
                return False
        except (OSError, ValueError, aiohttp.ClientError) as error:
            logger.info("a webhook does not answer: %s", type(error).__name__)
        if attempt + 1 == TRIES or stop.wait(FIRST_PAUSE_SECONDS * 2**attempt):
            return False
    return False


async def _post_once(url: str, body: bytes, headers: Mapping[str, str]) -> int:
    """The status of the answer.

    The `total` timeout cuts off a server that sends a byte now and then. Redirects are not
    followed: the request would become a GET without its body, to an address that the answer names.
    """
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
    if "base" in scores and "tuned" in scores:
        text += f": WER {scores['base'].wer:.1f} % -> {scores['tuned'].wer:.1f} %"
    return text


def escaped(text: str) -> str:
    """The text with the characters of Slack's markup escaped."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _verb(state: str) -> str:
    return "was cancelled" if state == "cancelled" else f"has {state}"


def start(**_: Any) -> None:
    """Start the notifier in a ready worker's main process, if the settings name a receiver."""
    settings = Settings()
    if settings.webhook_url or settings.slack_webhook_url or traces.enabled():
        lifecycle.run(Notifier(settings).ticker)


signals.worker_ready.connect(start)
