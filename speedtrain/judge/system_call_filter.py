"""The first program inside the sandbox. It tells the judge that Python works, and becomes the script of a submission.

Before that it gives up what a script has no use for, and nothing can give back:

- **Keys.** The session keyring of the organiser would be inherited, and a keyring of a user outlives a step: what one
  step leaves there, another would find. The step gets a session keyring of its own, and no key can be used any more.
- **System calls** by which something passes from one step to another, or escapes the limits: kernel keys, System V
  memory, new namespaces and mounts, tracing, io_uring, BPF, sockets of other families than local, IPv4, IPv6 and
  netlink. A filter (seccomp) refuses them. PyTorch, its data loaders and gloo do without.

It is run as the text of `python -c`, since the sandbox does not show this file. It closes the pipe of events, so that
the script cannot send an event.
"""

import ctypes
import os
import struct
import sys
from typing import NamedTuple

EVENTS_VARIABLE = "TIMING_EVENTS"
NO_NEW_PRIVS, SET_SECCOMP, FILTER = 38, 22, 2  # of prctl(2)
JOIN_SESSION_KEYRING = 1  # of keyctl(2)
EPERM, ENOSYS, EAFNOSUPPORT = 1, 38, 97
FAMILIES = (1, 2, 10, 16)  # local, IPv4, IPv6, and netlink, by which libraries look up addresses
NAMESPACES = 0x7E020080
"""The flags of clone(2) that make namespaces."""
NEW_CALLS = {
    ENOSYS: (425, 426, 427, 435),  # io_uring; clone3, whose flags cannot be seen: libraries fall back to clone
    EPERM: (428, 429, 430, 431, 432, 433, 442),  # mounts
}
"""Numbers that are the same on all machines."""


class Calls(NamedTuple):
    """Numbers of system calls on one kind of machine; `audit` is the number of the kind itself."""

    audit: int
    keyctl: int
    clone: int
    sockets: tuple[int, int]
    refused: dict[int, tuple[int, ...]]


CALLS = {
    "x86_64": Calls(
        audit=0xC000003E,
        keyctl=250,
        clone=56,
        sockets=(41, 53),
        refused={
            # ptrace, mount, umount2, pivot_root, add_key, request_key, keyctl, unshare, perf_event_open, setns,
            # process_vm_readv, process_vm_writev, bpf, userfaultfd
            EPERM: (101, 165, 166, 155, 248, 249, 250, 272, 298, 308, 310, 311, 321, 323),
            ENOSYS: (29, 64, 68),  # shmget, semget, msgget
        },
    ),
    "aarch64": Calls(
        audit=0xC00000B7,
        keyctl=219,
        clone=220,
        sockets=(198, 199),
        refused={
            EPERM: (117, 40, 39, 41, 217, 218, 219, 97, 241, 268, 270, 271, 280, 282),
            ENOSYS: (194, 190, 186),
        },
    ),
}
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # of BPF
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # where the filter finds them
ALLOW, REFUSE = 0x7FFF0000, 0x00050000


def filter_for(machine: str) -> bytes:
    """The program of the filter, as of `struct sock_filter`."""
    calls = CALLS[machine]

    def step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("HBBI", code, if_true, if_false, value)

    refuse = step(RETURN, REFUSE | EPERM)
    # the calls of 32 bits have other numbers: none of them
    program = step(LOAD, ARCHITECTURE) + step(EQUAL, calls.audit, 1) + refuse
    program += step(LOAD, NUMBER) + step(AT_LEAST, 0x40000000, 0, 1) + refuse
    for error in (EPERM, ENOSYS):
        for number in (*calls.refused[error], *NEW_CALLS[error]):
            program += step(EQUAL, number, 0, 1) + step(RETURN, REFUSE | error)
    program += step(EQUAL, calls.clone, 0, 3) + step(LOAD, FIRST_ARGUMENT)
    program += step(ANY_BIT, NAMESPACES, 0, 1) + refuse
    program += step(LOAD, NUMBER)  # the clone has loaded its flags
    for number in calls.sockets:
        program += step(EQUAL, number, 0, 2 + len(FAMILIES)) + step(LOAD, FIRST_ARGUMENT)
        for place, family in enumerate(FAMILIES):
            program += step(EQUAL, family, len(FAMILIES) - place)
        program += step(RETURN, REFUSE | EAFNOSUPPORT)
    return program + step(RETURN, ALLOW)


def give_up() -> None:
    """Leaves the organiser's keyring, and installs the filter; other machines than those above do without both.

    Raises:
        OSError: the kernel refused.
    """
    machine = os.uname().machine
    if machine not in CALLS:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(CALLS[machine].keyctl, JOIN_SESSION_KEYRING, None)  # a kernel without keys has none to hide
    program = filter_for(machine)
    kept = ctypes.create_string_buffer(program, len(program))
    of = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(kept))
    if libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(SET_SECCOMP, FILTER, of, 0, 0):
        error = ctypes.get_errno()
        raise OSError(error, f"no filter of system calls: {os.strerror(error)}")


if __name__ == "__main__":
    open(sys.argv[1]).close()
    give_up()
    events = int(os.environ.pop(EVENTS_VARIABLE))
    os.write(events, b'{"started": true}\n')
    os.close(events)
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
