"""A detector's feature pyramid: levels of many sizes, each weighted, and no logits to compare.

The loss takes the levels as a list. ``layer_weights`` says how much each counts, and the images
need not be square. A student whose levels lie on other strides than the teacher's would pass
``align="adaptive_avg"``.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import amd_fused

WIDTH = 32  # of all levels


class Detector(nn.Module):
    """A backbone, a feature pyramid (Lin et al. 2017) and a head that says where objects are."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, 2, padding=1), nn.BatchNorm2d(after), nn.ReLU()
            )
            for before, after in zip([3, *widths], widths, strict=False)
        )
        self.lateral = nn.ModuleList(nn.Conv2d(w, WIDTH, 1) for w in widths)
        self.head = nn.Conv2d(WIDTH, 1, 3, padding=1)

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The levels of the pyramid, finest first, and a logit "object" at each position."""
        maps = []
        for stage in self.stages:
            images = stage(images)
            maps.append(images)
        levels = [lateral(a) for lateral, a in zip(self.lateral, maps, strict=True)]
        for i in reversed(range(len(levels) - 1)):
            levels[i] = levels[i] + F.interpolate(levels[i + 1], size=levels[i].shape[-2:])
        return levels, [self.head(level) for level in levels]


def batch(count: int = 8, height: int = 64, width: int = 96) -> tuple[Tensor, Tensor]:
    """Images with a bright square each, and masks [B, 1, H, W] that say where it is."""
    masks = torch.zeros(count, 1, height, width)
    for mask in masks:
        y, x = (int(torch.randint(size - 16, ())) for size in (height, width))
        mask[:, y : y + 16, x : x + 16] = 1
    return masks + 0.3 * torch.randn(count, 3, height, width), masks


def detection_loss(logits: list[Tensor], masks: Tensor) -> Tensor:
    losses = [
        F.binary_cross_entropy_with_logits(z, F.adaptive_max_pool2d(masks, z.shape[-2:]))
        for z in logits
    ]
    return torch.stack(losses).mean()


def train(model: Detector, steps: int, loss_of) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for step in range(steps):
        images, masks = batch()
        loss = loss_of(images, masks, *model(images))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        print(f"step {step}: loss {losses[-1]:.3f}")
    return losses


def main(steps: int = 12) -> list[float]:
    torch.manual_seed(0)
    teacher, student = Detector(16), Detector(8)
    print("Teacher")
    train(teacher, steps, lambda images, masks, levels, logits: detection_loss(logits, masks))
    teacher.eval()
    # Coarse levels have few positions: they count less.
    criterion = amd_fused.AMDLoss(layer_weights=[1.0, 1.0, 0.5, 0.5])

    def distilled(
        images: Tensor, masks: Tensor, levels: list[Tensor], logits: list[Tensor]
    ) -> Tensor:
        with torch.no_grad():
            teacher_levels, _ = teacher(images)
        return detection_loss(logits, masks) + 1000 * criterion(levels, teacher_levels)

    print("Student")
    return train(student, steps, distilled)


if __name__ == "__main__":
    main()
