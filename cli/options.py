"""Options that `submit` and `batch` have in common."""

import click

PRIORITY = click.option(
    "--priority",
    type=click.Choice(["high", "normal", "low"]),
    default="normal",
    show_default=True,
    help="Urgent jobs go before all others.",
)
ANEW = click.option(
    "--anew", is_flag=True, help="Queue a batch even if the same was submitted before."
)
WAIT = click.option("--wait", is_flag=True, help="Follow it to its end, as `lorajob watch` does.")
