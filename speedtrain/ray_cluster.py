"""A Ray cluster: connecting to it, and its nodes."""

import logging
import socket
from typing import Any

from speedtrain.errors import UserError

CONNECT_TIMEOUT = 10.0
"""Seconds to wait for the cluster's address to answer."""


def connect(address: str | None) -> tuple[Any, bool]:
    """Connects this process to a cluster.

    Args:
        address: as for `ray.init`. None: $RAY_ADDRESS, or a new cluster of this machine alone.

    Returns:
        The package `ray`, and whether this call has connected it: then `ray.shutdown` is due.

    Raises:
        UserError: Ray is not installed, or no cluster answers at the address.
    """
    try:
        import ray
    except ImportError:
        raise UserError('--engine ray: Ray is not installed; pip install "speedtrain[ray]"') from None
    if ray.is_initialized():
        return ray, False
    try:
        _check_address(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:  # ConnectionError is an OSError
        reason = str(error).partition("\n")[0]
        raise UserError(f"--address {address}: no Ray cluster can be reached there ({reason})") from None
    return ray, True


def living_nodes(ray: Any) -> list[dict[str, Any]]:
    """The nodes that are alive and have a core to give, as `ray.nodes` describes them."""
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]


def _check_address(address: str | None) -> None:
    """Raises OSError where nothing listens at the address. Ray itself would go on trying for a quarter of an hour."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT).close()
