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
    click.option(
        "--pull",
        "again",
        is_flag=True,
        help="Pull the base and build again, even if the image is there: to get a fixed HAProxy.",
    ),
    opt.host,
    opt.quiet,
)
def build(given: opt.Given, base: str | None, again: bool) -> None:
    """Build the gateway's image on the engine, if it is missing, and print its name.

    Downloads only the base image and HAProxy, if the engine or the base does not have them. Gateways that run keep the
    image that they were made from; sandboxes created later get the new one.
    """
    from sandboxrun.backend.docker.observe import helper_on
    from sandboxrun.gateway import image

    with project.open_engine(given.host) as engine:
        there = helper_on(engine)
        if there.id is None or there.unfit is not None or base is not None or again:
            base = base or image.BASE
            if again or engine.image(base) is None:
                note(f"pulling {base}", quiet=given.quiet)
                image.pull_base(engine, base)
            note(f"building {image.reference()} on {base}", quiet=given.quiet)
            image.build(engine, base)
        result(image.reference())
