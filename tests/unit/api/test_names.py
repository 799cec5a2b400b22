"""What the package offers by name: typed, and every error that the API raises."""

from __future__ import annotations

import importlib.resources
import inspect
import pkgutil
import subprocess
import sys

import sandboxrun
from sandboxrun.api.service import SandboxService
from sandboxrun.api.spawner import ServiceOptions
from sandboxrun.errors import SandboxrunError

# of the command line, or caught before they reach a caller
_INTERNAL = {"OutputFailed", "GitError", "Interrupted", "ProbeError", "Missing"}


def test_the_package_is_typed() -> None:
    assert (importlib.resources.files("sandboxrun") / "py.typed").is_file()


def test_a_spawner_takes_what_its_service_takes() -> None:
    """As a type checker sees it."""
    given = dict(inspect.signature(SandboxService.__init__).parameters)
    del given["self"], given["settings"]
    declared = {name: told.__forward_arg__ for name, told in ServiceOptions.__annotations__.items()}
    assert declared == {name: parameter.annotation for name, parameter in given.items()}


def test_no_name_is_a_modules() -> None:
    """`from sandboxrun import plan` would be the module, once anything has imported it."""
    assert {module.name for module in pkgutil.iter_modules(sandboxrun.__path__)} & set(sandboxrun.__all__) == set()


def test_every_error_has_a_name_in_the_package() -> None:
    for name in sandboxrun.__all__:
        getattr(sandboxrun, name)
    found = set[str]()
    todo = [SandboxrunError]
    while todo:
        for kind in todo.pop().__subclasses__():
            todo.append(kind)
            found.add(kind.__name__)
    public = {name for name in found if not name.startswith("_")} - _INTERNAL
    assert public - set(sandboxrun.__all__) == set()


_INTERRUPTED = """
import sys
class Finder:
    def find_spec(self, name, path, target=None):
        if name == "click":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Finder())
import sandboxrun.__main__
"""


def test_an_interrupt_while_modules_are_read_is_no_traceback() -> None:
    ran = subprocess.run([sys.executable, "-c", _INTERRUPTED], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "")


def test_the_package_itself_reads_no_other_module() -> None:
    """What it read would be read before anything catches an interrupt."""
    program = "import sys; before = set(sys.modules); import sandboxrun; print(*set(sys.modules) - before)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["sandboxrun"]
