"""What lies in a cache's folder, what of it counts, and what a full disk does."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from distill.processes import said
from forks import Forks

from amd_fused import TeacherOutputs
from amd_fused.teacher_cache import files
from teacher_cache.cached_teachers import BATCH, SAMPLES, by_name, cache, dataset, expected, loader

NAMES = ["logits", "map-0", "map-1", "features-0", "embedding"]


def test_numpy_reads_the_files_as_they_are(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    folder = tmp_path / "new" / "cache"
    with cache(folder) as kept:
        kept.fill(loader(seed=3))
    assert {path.name for path in folder.iterdir()} == {
        *(f"{name}.npy" for name in [*NAMES, "filled"]),
        *("header.json", "lock"),
    }
    wanted = expected(dataset().tensors[0])
    for name in NAMES:
        found = np.load(folder / f"{name}.npy", mmap_mode="r")
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted[name].numpy(), rtol=1e-5, atol=1e-6)
    assert np.load(folder / "filled.npy").tolist() == [1] * SAMPLES
    header = json.loads((folder / "header.json").read_text())
    assert header["size"] == SAMPLES
    assert header["fingerprint"] == kept.fingerprint
    assert header["shapes"]["map-1"] == [1, 4, 4]


@pytest.mark.parametrize("shape", [(3,), (50, 5), (123456, 7, 1, 9), (10**9, 2048, 7, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8])
def test_headers_are_numpys_own(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    np = pytest.importorskip("numpy")
    import io

    buffer = io.BytesIO()
    name = str(dtype).removeprefix("torch.")
    about = np.lib.format.header_data_from_array_1_0(np.empty(0, name)) | {"shape": shape}
    np.lib.format.write_array_header_1_0(buffer, about)
    own = files._npy_header(dtype, shape)
    assert len(own) % 64 == 0
    stream = io.BytesIO(own)
    assert np.lib.format.read_magic(stream) == (1, 0)
    assert np.lib.format.read_array_header_1_0(stream) == (shape, False, np.dtype(name))
    assert buffer.getvalue()[:8] == own[:8]


def test_float16_files_are_half_as_long(tmp_path: Path) -> None:
    sizes = []
    for dtype in (torch.float32, torch.float16):
        folder = tmp_path / str(dtype)
        kept = cache(folder, dtype=dtype)
        kept.fill(loader())
        sizes.append((folder / "features-0.npy").stat().st_size - 128)
        rounded = cache(folder, dtype=dtype).get(range(SAMPLES))
        for name, a in by_name(rounded).items():
            wanted = expected(dataset().tensors[0])[name]
            # Half an ulp of 11 bits, and float32's own error.
            torch.testing.assert_close(a.double(), wanted, rtol=2**-11 * 1.01, atol=1e-6)
            if dtype == torch.float32:
                torch.testing.assert_close(a.double(), wanted, rtol=1e-5, atol=1e-6)
    assert sizes == [SAMPLES * 64 * 4, SAMPLES * 64 * 2]


def test_a_later_cache_goes_on_with_what_was_flushed(tmp_path: Path) -> None:
    images = dataset().tensors[0]
    first = cache(tmp_path)
    first(images[:BATCH], range(BATCH))
    # Not yet on the disk for sure, so not yet anyone else's.
    assert (first.missing, cache(tmp_path).missing) == (42, 50)
    other = cache(tmp_path)
    first.flush()
    assert (other.missing, cache(tmp_path).missing) == (42, 42)
    assert torch.equal(first.get(range(BATCH)).logits, other.get(range(BATCH)).logits)
    other(images[BATCH : 2 * BATCH], range(BATCH, 2 * BATCH))
    other.close()
    assert first.missing == 34
    assert first.get([BATCH]) is not None


def test_a_cache_that_is_dropped_is_flushed(tmp_path: Path) -> None:
    cache(tmp_path)(dataset().tensors[0][:BATCH], range(BATCH))
    assert cache(tmp_path).missing == 42


def test_rows_are_flushed_by_their_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = 4 * (5 + 64 + 16 + 64 + 4)
    monkeypatch.setattr(files, "FLUSH_BYTES", 2 * BATCH * row)
    first, other = cache(tmp_path), None
    missing = []
    for images, _, indices in loader():
        first(images, indices)
        other = other or cache(tmp_path)
        missing.append(other.missing)
    assert missing == [50, 34, 34, 18, 18, 2, 2]


def test_files_without_a_header_count_for_nothing(tmp_path: Path) -> None:
    cache(tmp_path).fill(loader())
    (tmp_path / "header.json").unlink()
    kept = cache(tmp_path, maps=["2"])
    assert kept.missing == SAMPLES
    kept.fill(loader())
    assert cache(tmp_path, maps=["2"]).complete
    assert kept.get([0]).maps[0].shape == (1, 1, 4, 4)


@pytest.mark.parametrize("name", [*NAMES, "filled"])
@pytest.mark.parametrize("how", ["cut short", "longer", "other", "gone"])
def test_a_broken_file_is_named(tmp_path: Path, name: str, how: str) -> None:
    cache(tmp_path).fill(loader())
    path = tmp_path / f"{name}.npy"
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        other = content.replace(b"False", b"True ")
        path.write_bytes({"cut short": content[:-1], "longer": content + b"0", "other": other}[how])
    with pytest.raises(
        ValueError, match=rf"^TeacherCache: {path} (must be|cannot be read \(No su)"
    ):
        cache(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"fingerprint": 1, "shapes": {}, "size": 1}'])
def test_a_broken_header_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "header.json").write_text(text)
    with pytest.raises(ValueError, match=rf"{tmp_path}/header\.json must be a cache's header, got"):
        cache(tmp_path)


def test_a_full_disk_is_said_at_once_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = os.posix_fallocate

    def full(file: int, offset: int, size: int) -> None:
        if "map-1" in os.readlink(f"/proc/self/fd/{file}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(file, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", full)
    kept = cache(tmp_path)
    needed = SAMPLES * 4 * (5 + 64 + 16 + 64 + 4) + SAMPLES + 6 * 128
    message = rf"must have room for {needed:,} bytes, got [\d,]+ free \(No space left on device\); "
    with pytest.raises(OSError, match=message) as caught:
        kept(dataset().tensors[0][:BATCH], range(BATCH))
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    monkeypatch.setattr(os, "posix_fallocate", whole)
    kept.fill(loader())
    assert cache(tmp_path).complete


LIMITED = """
import resource, sys
from teacher_cache.cached_teachers import cache, loader
# Less than the features' file takes, more than those before it.
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
kept = cache(sys.argv[1])
try:
    kept.fill(loader())
except OSError as error:
    print(error.strerror)
"""


def test_a_real_limit_is_an_error_and_no_signal(with_torch: Forks, tmp_path: Path) -> None:
    printed = said(with_torch, LIMITED, str(tmp_path))
    assert "must have room for 31,418 bytes, got" in printed
    assert "(File too large)" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_where_nothing_can_be_promised_the_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.setattr(files, "_ZEROS", bytes(1000))
    cache(tmp_path).fill(loader())
    kept = cache(tmp_path)
    wanted = expected(dataset().tensors[0])["features-0"]
    torch.testing.assert_close(
        kept.get(range(SAMPLES)).features[0].double(), wanted, rtol=1e-5, atol=1e-6
    )
    blocks = (tmp_path / "features-0.npy").stat().st_blocks * 512
    assert blocks >= SAMPLES * 64 * 4


def test_a_folder_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(ValueError, match=r"cache's header, got NotADirectoryError"):
        cache(tmp_path / "cache")


def test_allocating_makes_room_before_the_first_batch(tmp_path: Path) -> None:
    example: Any = TeacherOutputs(
        torch.zeros(1, 5),
        [torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 4, 4)],
        [torch.zeros(1, 4, 4, 4)],
        torch.zeros(1, 4),
    )
    kept = cache(tmp_path)
    kept.allocate(example)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes["features-0.npy"] == 128 + SAMPLES * 64 * 4
    assert sum(sizes[f"{name}.npy"] - 128 for name in NAMES) == kept.bytes_needed(example)
    assert kept.missing == cache(tmp_path).missing == SAMPLES
    kept.fill(loader())
    assert cache(tmp_path).complete
