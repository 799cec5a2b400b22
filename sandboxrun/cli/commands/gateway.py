"""`sandboxrun gateway`: the image that sandboxes' gateways run from."""

from __future__ import annotations

import click

from sandboxrun.cli import options as opt
from sandboxrun.cli import project
from sandboxrun.cli.output import note, result


@click.group()
def gateway() -> None:
    """Build the image of the gateways through which sandboxes reach the network."""


@gateway.command()
@opt.taking(
    click.option(
        "--from",
        "base",
        metavar="IMAGE",
        help="What to build on: any image with Python 3.11 or newer as python3; HAProxy 2.6 or newer is installed from "
        "its packages if it is missing. Default: python:3.13-alpine.",
    ),
    opt.host,
    opt.quiet,
)
def build(given: opt.Given, base: str | None) -> None:
    """Build the gateway's image on the engine, if it is missing, and print its name.

    Downloads only the base image and HAProxy, if the engine or the base does not have them.
    """
    from sandboxrun.gateway import image

    with project.open_engine(given.host) as engine:
        if engine.image(image.reference()) is None or base is not None:
            base = base or image.BASE
            if engine.image(base) is None:
                note(f"pulling {base}", quiet=given.quiet)
                image.pull_base(engine, base)
            note(f"building {image.reference()} on {base}", quiet=given.quiet)
            image.build(engine, base)
        result(image.reference())
