"""A finished run's network for those who do not have this package: weights, source, model card."""

from __future__ import annotations

import shutil
from typing import Any

from safetensors.torch import save_file
from torch import nn

from amd_fused._files import write_atomically
from amd_fused.distill import models
from amd_fused.distill.data import DataSet
from amd_fused.distill.engine.model_card import card
from amd_fused.distill.run_dir import RunDir


def write_model(
    run: RunDir,
    network: nn.Module,
    code: models.PlainCode,
    config: dict[str, Any],
    dataset: DataSet,
    test: dict[str, float],
) -> None:
    """Writes model.safetensors, README.md and, where `code` needs one, model.py.

    Args:
        config: the run's config.json.
        test: the network's test metrics.
    """
    # Copies: what shares memory, as tied weights do, would be refused.
    state = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in network.state_dict().items()
    }
    write_atomically(run.model_file, lambda part: save_file(state, part, {"format": "pt"}))
    source = code.source
    if source is not None:
        write_atomically(run.model_source, lambda part: shutil.copyfile(source, part))
    text = card(code, config, dataset, test)
    write_atomically(run.model_card, lambda part: part.write_text(text, encoding="utf-8"))
