"""Tokens of vision transformers: a small ViT of timm under a wider one, block by block.

A block returns tokens [B, N, C]: a class token, then the patches in rows. ``layout="NLC"`` says so,
``prefix_tokens=1`` leaves the class token out, and ``grid`` puts the patches back into rows, which
the local part needs.
"""

import math

import timm
import torch

import amd_fused

BLOCKS = ["blocks.1", "blocks.3"]
SIZE, PATCH, CLASSES = 64, 8, 4


def vit(width: int) -> torch.nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224",
        pretrained=False,
        num_classes=CLASSES,
        img_size=SIZE,
        patch_size=PATCH,
        embed_dim=width,
        depth=4,
        num_heads=4,
    )


def batch(count: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Stripes under noise, in as many directions as there are classes."""
    labels = torch.randint(CLASSES, (count,))
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    angle = labels[:, None, None] * math.pi / CLASSES
    stripes = torch.sin((x * angle.cos() + y * angle.sin()) / 2)
    return stripes[:, None] + 0.5 * torch.randn(count, 3, SIZE, SIZE), labels


def main(steps: int = 12) -> list[float]:
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    student, teacher = vit(48).to(device), vit(96).to(device).eval()
    side = SIZE // PATCH
    tokens = {"layout": "NLC", "prefix_tokens": teacher.num_prefix_tokens, "grid": (side, side)}
    criterion = amd_fused.DistillationLoss(feature_loss=amd_fused.AMDLoss(**tokens))
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    losses = []
    with (
        amd_fused.FeatureHooks(student, BLOCKS) as hooks,
        amd_fused.FeatureHooks(teacher, BLOCKS) as teacher_hooks,
    ):
        for step in range(steps):
            images, labels = (a.to(device) for a in batch())
            with torch.no_grad():
                teacher_logits = teacher(images)
            logits = student(images)
            loss = criterion(logits, teacher_logits, labels, hooks.features, teacher_hooks.features)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            print(f"step {step}: loss {losses[-1]:.3f}")
    return losses


if __name__ == "__main__":
    main()
