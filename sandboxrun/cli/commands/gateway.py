"""`sandboxrun gateway`: the image that sandboxes' gateways run from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sandboxrun.cli import options as opt
from sandboxrun.cli.output import note, result

if TYPE_CHECKING:
    from sandboxrun.backend.docker.client import Engine


@click.group()
def gateway() -> None:
    """Build the image of the gateways through which sandboxes reach the network."""


@gateway.command()
@click.option(
    "--from",
    "base",
    metavar="IMAGE",
    help="What to build on: any image with Python 3.11 or newer as python3. Default: python:3.13-alpine.",
)
@opt.host
@opt.quiet
def build(base: str | None, host: str | None, quiet: bool) -> None:
    """Build the gateway's image on the engine, if it is missing, and print its name.

    Downloads only the base image, if the engine does not have it.
    """
    from sandboxrun.cli.project import open_engine
    from sandboxrun.gateway import image

    with open_engine(host) as engine:
        if engine.image(image.reference()) is None or base is not None:
            _build(engine, base or image.BASE, quiet)
        result(image.reference())


def _build(engine: Engine, base: str, quiet: bool) -> None:
    from sandboxrun.gateway import image

    if engine.image(base) is None:
        _tell(f"pulling {base}", quiet)
        image.pull_base(engine, base)
    _tell(f"building {image.reference()} on {base}", quiet)
    image.build(engine, base)


def _tell(text: str, quiet: bool) -> None:
    if not quiet:
        note(text)
