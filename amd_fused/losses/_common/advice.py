"""Where an option is passed that a message advises."""

from __future__ import annotations

MODULES = {
    "amd_loss": "AMDLoss",
    "at_loss": "ATLoss",
    "kd_loss": "KDLoss",
    "lsh_loss": "LSHLoss",
    "nd_loss": "NDLoss",
    "spherical_kd_loss": "SphericalKDLoss",
}


def option_of(owner: str) -> str:
    """What follows an option's name: " of amd_loss or AMDLoss".

    What the user called may be a DistillationLoss or a module, whose call takes no options. Empty
    for a class that takes them itself.
    """
    return f" of {owner} or {MODULES[owner]}" if owner in MODULES else ""
