"""Fills the templates of pages. A page is one file and needs no network.

Each page's Content-Security-Policy forbids every request. Vega compiles its expressions, so the
policy allows `unsafe-eval`. Text that comes from a corpus is escaped.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import jinja2
import vl_convert

from lorajob.job.jobdir import write_whole
from lorajob.visible import visible_lines


def fill(template: str, charts: Mapping[str, object], **values: object) -> str:
    """A page as HTML. `charts` are Vega-Lite specifications by name."""
    scripts = {name: _script_json(spec) for name, spec in charts.items()}
    page = _environment().get_template(template)
    return page.render(charts=scripts, bundle=vega_javascript(), **values)


def write_page(path: Path, page: str) -> None:
    """Write a page atomically."""
    write_whole(path, page.encode())


def _script_json(value: object) -> str:
    """JSON that is safe inside a <script> element."""
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@cache
def vega_javascript() -> str:
    """JavaScript of Vega, Vega-Lite and vega-embed, which defines `vegaEmbed`."""
    code: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return code.replace("</script", "<\\/script")


@cache
def _environment() -> jinja2.Environment:
    return new_environment(jinja2.PackageLoader("lorajob.reporting", "templates"))


def new_environment(loader: jinja2.BaseLoader) -> jinja2.Environment:
    """Templates that escape text and show control characters, with the filters `time`, `size`."""
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
    )
    environment.filters["time"] = _time
    environment.filters["size"] = _size
    return environment


def _shown(value: object) -> object:
    """Control characters in text are shown; markup, which templates make, stays as it is."""
    return visible_lines(value) if type(value) is str else value


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def _size(count: float | None) -> str:
    return "–" if count is None else f"{count / 1e9:.1f} GB"
