"""README.md beside the weights: a model card as the Hugging Face Hub reads it.

No licence stands in it, for only those who publish the weights can give one.
"""

from __future__ import annotations

from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from amd_fused.distill.config import Settings, all_settings
from amd_fused.distill.data import DataSet
from amd_fused.distill.models import PlainCode
from amd_fused.distill.run_dir import TEACHER

# By the name in result.json: the Hub's type of the metric, and how it is shown.
_METRICS = {
    "top1": ("accuracy", "top-1 (%)"),
    "top5": ("accuracy", "top-5 (%)"),
    "nll": ("nll", "NLL"),
    "ece": ("ece", "ECE (%)"),
}
# Names of classes that a line can hold.
_NAMED = 100


def card(code: PlainCode, config: dict[str, Any], dataset: DataSet, test: dict[str, float]) -> str:
    """The text: what was trained, on what, how, what it reaches, how it is loaded.

    Args:
        config, test: the run's config.json, and its network's test metrics.
    """
    settings = Settings.from_json(config["settings"])
    title = f"{config['network']} on {dataset.name}"
    images = f"[B, {dataset.channels}, {dataset.image_size}, {dataset.image_size}]"
    versions = config["versions"]
    commit = f", commit {config['commit']}" if config["commit"] else ""
    tested = "held-out training images" if settings.validation_size else "test images"
    return f"""---
{_front_matter(config, dataset, test, title)}
---

# {title}

{config["network"]}, {config["parameters"]:,} parameters: images `{images}` to the logits of
{dataset.num_classes} classes. {_training(config, settings)}

Trained by amd_fused {versions["amd_fused"]}{commit}, with torch {versions["torch"]}.

## How to load it

```python
{_loading(code)}
```

Images are float32, pixels between 0 and 1, normalised by mean {_numbers(dataset.mean)} and
standard deviation {_numbers(dataset.std)} of each channel.{_classes(dataset)}

## Results

On {len(dataset.test):,} {tested} of {dataset.name}, after the last epoch:

| {" | ".join(shown for _, shown in _METRICS.values())} |
|{"---:|" * len(_METRICS)}
| {" | ".join(f"{test[name]:.4g}" for name in _METRICS)} |

## Training

{len(dataset.train):,} training images of {dataset.name}. {_settings(config, settings)}.
"""


def _front_matter(
    config: dict[str, Any], dataset: DataSet, test: dict[str, float], title: str
) -> str:
    task = "image-classification"
    tags = [task, "safetensors", "amd_fused"]
    if config["role"] != TEACHER and Settings.from_json(config["settings"]).method.distilled:
        tags.append("knowledge-distillation")
    results = [
        EvalResult(
            task_type=task,
            dataset_type=dataset.name,
            dataset_name=dataset.name,
            metric_type=kind,
            metric_name=shown,
            metric_value=test[name],
        )
        for name, (kind, shown) in _METRICS.items()
    ]
    data = ModelCardData(
        library_name="pytorch",
        pipeline_tag=task,
        tags=tags,
        model_name=title,
        eval_results=results,
    )
    return str(data.to_yaml())


def _training(config: dict[str, Any], settings: Settings) -> str:
    if config["role"] == TEACHER or not settings.method.distilled:
        return "It learned from the labels alone."
    teacher = config["teacher"]
    top1 = "" if teacher["top1"] is None else f", top-1 {teacher['top1']:.2f} %"
    return (
        f"A student, distilled by {settings.method.label} from\n{teacher['network']}{top1} "
        f"(SHA-256 of its weights: `{teacher['weights_sha256']}`)."
    )


def _loading(code: PlainCode) -> str:
    imports = ["from safetensors.torch import load_file", code.imports]
    if any("torch.nn" in line for line in code.lines):
        imports.insert(0, "import torch")
    return "\n".join(
        [
            *imports,
            "",
            *code.lines,
            'network.load_state_dict(load_file("model.safetensors"))',
            "network.eval()",
        ]
    )


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"


def _classes(dataset: DataSet) -> str:
    if dataset.num_classes > _NAMED:
        return ""
    return f" Classes, in the logits' order: {', '.join(dataset.class_names)}."


def _settings(config: dict[str, Any], settings: Settings) -> str:
    """What the training depended on, by the names of the trainer's options."""
    method, values = settings.method, settings.to_json()
    shown = []
    for option in all_settings():
        group, name = option.metadata["group"], option.name
        objective = group == "objective" and config["role"] != TEACHER
        if group == "training" or (objective and method.depends_on(name, group)):
            shown.append(f"{name} {_value(values[name])}")
    shown += [f"{name} {_value(values[name])}" for name in ("augment", "mixup", "seed")]
    return "Settings: " + ", ".join(shown)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "(" + ", ".join(map(str, value)) + ")"
    return f"{value:g}" if isinstance(value, float) else str(value)
