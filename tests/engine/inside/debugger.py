"""What a debugger does to its own child: stop it, read its memory, start it without address randomisation."""

import ctypes
import os
import signal

LIBC = ctypes.CDLL(None, use_errno=True)
TRACEME, CONT, ADDR_NO_RANDOMIZE = 0, 7, 0x0040000


class Part(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def answer(result: int) -> str:
    return "fine" if result != -1 else os.strerror(ctypes.get_errno())


def trace() -> str:
    child = os.fork()
    if child == 0:
        result = LIBC.ptrace(TRACEME, 0, None, None)
        if result == -1:
            os._exit(ctypes.get_errno())
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    _, status = os.waitpid(child, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        return os.strerror(os.WEXITSTATUS(status))
    if LIBC.ptrace(CONT, child, None, None) == -1:
        return answer(-1)
    return "fine" if os.waitpid(child, 0)[1] == 0 else "the child did not go on"


def read_memory() -> str:
    secret = ctypes.create_string_buffer(b"in memory")
    child = os.fork()
    if child == 0:
        signal.pause()
    found = ctypes.create_string_buffer(9)
    here, there = Part(ctypes.addressof(found), 9), Part(ctypes.addressof(secret), 9)
    result = LIBC.process_vm_readv(child, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
    text = answer(result)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return text if result == -1 or found.raw == b"in memory" else "other bytes were read"


print("trace:", trace())
print("memory:", read_memory())
print("personality:", answer(LIBC.personality(ADDR_NO_RANDOMIZE)))
