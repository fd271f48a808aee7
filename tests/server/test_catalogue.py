"""The models that requests can name."""

import asyncio
import threading
from pathlib import Path
from typing import Any

from lorajob.server.catalogue import ModelCatalogue
from lorajob.serving.models import ServedModel
from tests.support.service import settings_for


def test_requests_during_the_first_reading_of_the_promotions_wait_for_it(tmp_path: Path) -> None:
    pool: Any = None
    catalogue: Any = ModelCatalogue(settings_for(tmp_path, None), [], pool)
    model = ServedModel(name="hi-aaaa1111", folder=tmp_path, language="hi", spec=None)
    go_on = threading.Event()

    def read() -> dict[str, str]:
        assert go_on.wait(60)
        return {"hi": model.name}

    async def job(name: str) -> ServedModel:
        return model

    async def ask() -> list[Any]:
        asked = [asyncio.create_task(catalogue.choose("hi", None)) for _ in range(8)]
        for _ in range(20):  # a request that does not wait ends in these turns of the loop
            await asyncio.sleep(0)
        assert not any(it.done() for it in asked)
        go_on.set()
        return await asyncio.gather(*asked)

    catalogue._read_promotions, catalogue._job = read, job
    try:
        found = asyncio.run(ask())
    finally:
        go_on.set()
        asyncio.run(catalogue.close())
    assert [it.models for it in found] == [(model,)] * 8
