"""The queue of windows: who shares a batch, in which order, and what leaves."""

import threading

import pytest

from lorajob.serving import batcher
from lorajob.serving.batcher import WindowQueue


def taken(queue: WindowQueue[str]) -> list[str]:
    batch = queue.take()
    assert batch is not None
    return [it.item for it in batch]


def test_a_batch_has_one_key_and_its_size() -> None:
    queue: WindowQueue[str] = WindowQueue(2, 0)
    queue.put(1, "a", ["a1"], [1.0])
    queue.put(2, "b", ["b1"], [1.0])
    queue.put(3, "a", ["a2"], [2.0])
    queue.put(4, "a", ["a3"], [3.0])
    assert taken(queue) == ["a2", "a1"]  # the longest first
    assert taken(queue) == ["b1"]
    assert taken(queue) == ["a3"]
    assert len(queue) == 0


def test_windows_of_similar_length_share_a_batch() -> None:
    queue: WindowQueue[str] = WindowQueue(2, 0)
    queue.put(1, "a", ["short"], [2.0])
    queue.put(2, "a", ["long"], [29.0])
    queue.put(3, "a", ["short too"], [3.0])
    assert taken(queue) == ["short too", "short"]
    assert taken(queue) == ["long"]


def test_a_new_request_comes_before_later_windows_of_a_long_one() -> None:
    queue: WindowQueue[str] = WindowQueue(1, 0)
    queue.put(1, "a", [f"long {it}" for it in range(4)], [1.0] * 4)
    assert [taken(queue), taken(queue)] == [["long 0"], ["long 1"]]
    queue.put(2, "a", ["new 0", "new 1", "new 2"], [1.0] * 3)
    rest = [taken(queue)[0] for _ in range(5)]
    # Both go on in turn: neither waits for the other to end.
    assert rest == ["new 0", "long 2", "new 1", "long 3", "new 2"]


def test_what_is_dropped_is_not_given_out() -> None:
    queue: WindowQueue[str] = WindowQueue(4, 0)
    queue.put(1, "a", ["left"], [1.0])
    queue.put(2, "a", ["stays"], [1.0])
    queue.drop(1)
    assert taken(queue) == ["stays"]


def test_a_batch_is_complete_as_soon_as_it_is_full() -> None:
    queue: WindowQueue[str] = WindowQueue(2, 3600)
    batches: list[list[str]] = []
    thread = threading.Thread(target=lambda: batches.append(taken(queue)))
    thread.start()
    queue.put(1, "a", ["one"], [1.0])
    queue.put(2, "a", ["two"], [1.0])
    thread.join(60)
    assert batches == [["one", "two"]]


def test_a_batch_waits_for_the_clients_of_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher, "MOST_PATIENCE_SECONDS", 3600)
    queue: WindowQueue[str] = WindowQueue(8, 0)
    for number in range(3):
        queue.put(number, "a", [f"first {number}"], [1.0])
    last = queue.take()
    assert last is not None and len(last) == 3
    queue.put(4, "a", ["second 0", "and its end"], [2.0, 1.0])
    queue.decoded(last, 3600 / batcher.PATIENCE)
    batches: list[list[str]] = []
    thread = threading.Thread(target=lambda: batches.append(taken(queue)))
    thread.start()
    queue.put(5, "a", ["second 1"], [1.0])
    queue.put(6, "a", ["second 2"], [1.0])
    thread.join(60)
    assert batches == [["second 0", "second 1", "second 2", "and its end"]]
    # Windows with other options, or as many requests, do not wait.
    queue.put(7, "b", ["other"], [1.0])
    assert taken(queue) == ["other"]
    for number in range(8, 11):
        queue.put(number, "a", ["third"], [1.0])
    assert taken(queue) == ["third"] * 3


def test_a_batch_does_not_wait_for_clients_that_stay_away() -> None:
    queue: WindowQueue[str] = WindowQueue(8, 0)
    for number in range(2):
        queue.put(number, "a", ["first"], [1.0])
    last = queue.take()
    assert last is not None
    queue.decoded(last, 0.1)
    queue.put(3, "a", ["alone"], [1.0])
    assert taken(queue) == ["alone"]


def test_a_closed_queue_gives_nothing() -> None:
    queue: WindowQueue[str] = WindowQueue(2, 3600)
    batches: list[object] = []
    thread = threading.Thread(target=lambda: batches.append(queue.take()))
    thread.start()
    queue.close()
    thread.join(60)
    assert batches == [None]
