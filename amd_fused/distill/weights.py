"""Where the weights of the paper's comparisons come from: the AMD paper names its own alone.

They stand beside cross-entropy and KD as the AMD paper weighs them, "keeping the same setting as
the proposed method" (section 5.1.2).
"""

from __future__ import annotations

_REPDISTILLER = "HobbitLong/RepDistiller, scripts/run_cifar_distill.sh"
_ZOO = "AberHu/Knowledge-Distillation-Zoo, for CIFAR-10; its authors released no code"
_AFD = "its authors' clovaai/attention-feature-distillation, README.md, for CIFAR-100"

# By the name of the setting.
SOURCES = {
    "gamma": "the AMD paper, section 5.1.2",
    "at_weight": _REPDISTILLER,
    "sp_weight": _REPDISTILLER,
    "rkd_weight": _REPDISTILLER,
    "vid_weight": _REPDISTILLER,
    "cc_weight": _REPDISTILLER,
    "crd_weight": _REPDISTILLER,
    "afd_weight": _AFD,
    "afds_weight": _ZOO,
}
