"""The CIFAR archives are read as published, and whatever is wrong with them is said by file."""

from __future__ import annotations

import io
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from amd_fused.distill import data
from amd_fused.distill.config import Settings
from amd_fused.distill.data.pickles import load_pickle
from amd_fused.distill.errors import UsageError
from distill.published_layouts import (
    CIFAR10_NAMES,
    cifar_rows,
    pack,
    python2_pickle,
    write_cifar10,
    write_cifar100,
)


def load(folder, name="cifar10", **options):
    return data.load(Settings(data=name, data_dir=str(folder), **options))


def change(path, **values):
    """Writes a file again with some of its keys changed; None leaves one out."""
    content = pickle.loads(path.read_bytes(), encoding="bytes")
    content.update({key.encode(): value for key, value in values.items()})
    path.write_bytes(pickle.dumps({k: v for k, v in content.items() if v is not None}))


def test_pickles_of_the_tests_are_those_of_python_2():
    written = python2_pickle({b"data": np.arange(2, dtype=np.uint8), b"labels": [1, 2]})
    for opcode in (b"U\x04data", b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy\ndtype\n"):
        assert opcode in written
    assert b"_codecs" not in written


def test_cifar10_has_its_files_in_order_with_their_labels_and_names(tmp_path):
    write_cifar10(tmp_path, per_file=4)
    loaded = load(tmp_path)
    assert (len(loaded.train), len(loaded.test)) == (20, 4)
    assert loaded.train.labels.tolist() == [*range(10), *range(10)]
    assert loaded.test.labels.tolist() == [0, 1, 2, 3]
    assert loaded.train.labels.dtype == torch.int64
    assert loaded.class_names == tuple(CIFAR10_NAMES)
    assert (loaded.name, loaded.channels, loaded.image_size) == ("cifar10", 3, 32)


def test_cifar10_pixels_are_normalised_by_channel(tmp_path):
    write_cifar10(tmp_path, per_file=4)
    loaded = load(tmp_path)
    # Image 5 is the second of data_batch_2; a row is 1024 red, then green, then blue, row by row.
    row = cifar_rows(4, seed=1)[1].astype(float)
    image = loaded.train.batch([5], None)[0]
    assert image.shape == (3, 32, 32)
    assert image.dtype == torch.float32
    constants = ((0.4914, 0.2470), (0.4822, 0.2435), (0.4465, 0.2616))
    for channel, (mean, std) in enumerate(constants):
        for y, x in ((0, 0), (0, 31), (3, 17), (31, 0)):
            expected = (row[channel * 1024 + y * 32 + x] / 255 - mean) / std
            assert image[channel, y, x].item() == pytest.approx(expected, abs=1e-5)


def test_cifar100_has_its_fine_classes(tmp_path):
    write_cifar100(tmp_path, train=200, test=100)
    loaded = load(tmp_path, "cifar100")
    assert (len(loaded.train), len(loaded.test), loaded.num_classes) == (200, 100, 100)
    assert loaded.class_names[7] == "fine_07"
    assert loaded.train.labels[95:105].tolist() == [95, 96, 97, 98, 99, 0, 1, 2, 3, 4]
    red = cifar_rows(200, seed=0)[150, 0] / 255
    image = loaded.train.batch([150], None)
    assert image[0, 0, 0, 0].item() == pytest.approx((red - 0.5071) / 0.2673, abs=1e-5)


@pytest.mark.parametrize("protocol", [2, 3, 5])
def test_pickles_of_python_3_are_read_too(tmp_path, protocol):
    write_cifar10(tmp_path / "new", dump=lambda content: pickle.dumps(content, protocol))
    write_cifar10(tmp_path / "old")
    new, old = load(tmp_path / "new"), load(tmp_path / "old")
    assert torch.equal(new.train.batch(range(20), None), old.train.batch(range(20), None))
    assert new.class_names == old.class_names


@pytest.mark.parametrize(
    ("name", "write", "archive"),
    [
        ("cifar10", write_cifar10, "cifar-10-python.tar.gz"),
        ("cifar100", write_cifar100, "cifar-100-python.tar.gz"),
    ],
)
def test_an_archive_is_unpacked_beside_itself(tmp_path, name, write, archive):
    folder = write(tmp_path)
    unpacked = load(tmp_path, name).train.batch([3, 4], None)
    files = sorted(file.name for file in folder.iterdir())
    pack(folder, archive)
    assert torch.equal(load(tmp_path, name).train.batch([3, 4], None), unpacked)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([archive, folder.name])
    assert sorted(file.name for file in folder.iterdir()) == files


def test_processes_may_unpack_the_same_archive_at_once(tmp_path):
    archive = pack(write_cifar10(tmp_path), "cifar-10-python.tar.gz")
    with ThreadPoolExecutor(4) as pool:
        sizes = list(pool.map(lambda _: len(load(tmp_path).train), range(4)))
    assert sizes == [20] * 4
    assert sorted(tmp_path.iterdir()) == [tmp_path / "cifar-10-batches-py", archive]


def test_an_archive_writes_nowhere_else(tmp_path):
    archive = pack(write_cifar10(tmp_path / "data"), "cifar-10-python.tar.gz")
    with tarfile.open(archive) as tar:
        members = [(member, tar.extractfile(member)) for member in tar if member.isreg()]
        content = [(member.name, file.read()) for member, file in members]
    with tarfile.open(archive, "w:gz") as tar:
        for name, value in [("cifar-10-batches-py/../../evil", b"evil"), *content]:
            member = tarfile.TarInfo(name)
            member.size = len(value)
            tar.addfile(member, io.BytesIO(value))
    assert len(load(tmp_path / "data").train) == 20
    assert list(tmp_path.rglob("evil")) == []


def test_data_dir_may_be_the_published_folder_itself(tmp_path):
    assert len(load(write_cifar10(tmp_path)).train) == 20


def test_a_missing_data_dir_is_named_with_what_belongs_there(tmp_path):
    with pytest.raises(UsageError) as caught:
        load(tmp_path / "nowhere")
    assert str(caught.value) == (
        "--data-dir must be the folder that holds the CIFAR-10 python version "
        f"(cifar-10-batches-py/ or cifar-10-python.tar.gz), but there is no folder "
        f"{tmp_path / 'nowhere'}"
    )


def test_a_data_dir_without_cifar_is_told_what_belongs_there(tmp_path):
    with pytest.raises(UsageError) as caught:
        load(tmp_path, "cifar100")
    assert str(caught.value) == (
        "--data-dir must be the folder that holds the CIFAR-100 python version "
        "(cifar-100-python/ or cifar-100-python.tar.gz), but there is no cifar-100-python/ in "
        f"{tmp_path}"
    )


def test_missing_files_are_named(tmp_path):
    folder = write_cifar10(tmp_path)
    (folder / "data_batch_3").unlink()
    (folder / "test_batch").unlink()
    for data_dir in (tmp_path, folder):
        with pytest.raises(UsageError, match="but lacks data_batch_3, test_batch") as caught:
            load(data_dir)
        assert str(caught.value).startswith(f"{folder} must hold the CIFAR-10 python version")


def test_an_archive_that_lacks_a_file_leaves_nothing_behind(tmp_path):
    folder = write_cifar10(tmp_path)
    (folder / "batches.meta").unlink()
    archive = pack(folder, "cifar-10-python.tar.gz")
    with pytest.raises(UsageError, match=r"but lacks batches\.meta") as caught:
        load(tmp_path)
    assert str(archive) in str(caught.value)
    assert list(tmp_path.iterdir()) == [archive]


def test_a_broken_archive_leaves_nothing_behind(tmp_path):
    archive = pack(write_cifar10(tmp_path), "cifar-10-python.tar.gz")
    archive.write_bytes(archive.read_bytes()[:2000])
    with pytest.raises(UsageError, match="cannot be unpacked") as caught:
        load(tmp_path)
    assert "get the CIFAR-10 python version again" in str(caught.value)
    assert list(tmp_path.iterdir()) == [archive]


def test_a_pickle_cut_short_is_named(tmp_path):
    folder = write_cifar10(tmp_path)
    broken = folder / "data_batch_2"
    broken.write_bytes(broken.read_bytes()[:5000])
    with pytest.raises(UsageError, match="it may be cut short: get the CIFAR-10") as caught:
        load(tmp_path)
    assert str(caught.value).startswith(f"{broken} cannot be read")
    assert "\n" not in str(caught.value)


def test_a_pickle_cannot_call_functions(tmp_path):
    folder = write_cifar10(tmp_path)
    traced = tmp_path / "called"
    (folder / "test_batch").write_bytes(
        b"cposix\nsystem\n(S'touch " + str(traced).encode() + b"'\ntR."
    )
    with pytest.raises(UsageError, match=r"posix\.system does not belong into a data set"):
        load(tmp_path)
    assert not traced.exists()


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        # An array whose objects lie where the bytes say, which a pickle could then use.
        (b"cnumpy\nndarray\n((I1\ntS'O'\nS'AAAAAAAA'\ntR.", "not callable"),
        (b"cnumpy\ndtype\n(S'O'\ntR.", "arrays of object do not belong"),
        (b"cnumpy\ndtype\n(S'V8'\ntR.", r"arrays of \|V8 do not belong"),
    ],
)
def test_a_pickle_cannot_make_objects_of_bytes(tmp_path, made, reason):
    (write_cifar10(tmp_path) / "test_batch").write_bytes(made)
    with pytest.raises(UsageError, match=f"cannot be read .*{reason}"):
        load(tmp_path)


def test_a_pickle_cannot_change_the_flags_of_a_type(tmp_path):
    flagged = b"cnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI63\ntb."
    path = tmp_path / "type"
    path.write_bytes(b"(S'kind'\n" + flagged[:-1] + b"d.")
    assert not load_pickle(path, "CIFAR")[b"kind"].hasobject


WRONG = [
    ({"data": None}, "data must be uint8 [n, 3072], got no array"),
    ({"data": np.zeros((4, 3071), np.uint8)}, "data must be uint8 [n, 3072], got uint8 [4, 3071]"),
    ({"data": np.zeros((4, 3072), np.int64)}, "data must be uint8 [n, 3072], got int64 [4, 3072]"),
    ({"data": np.zeros((0, 3072), np.uint8)}, "data must hold at least one image"),
    ({"labels": [0, 1, 2]}, "labels must be a list of 4 classes, one an image, got 3"),
    ({"labels": None}, "labels must be a list of 4 classes, one an image, got none"),
    ({"labels": [0, 1, 10, 2]}, "labels must be between 0 and 9, got 10"),
    ({"labels": [0, -1, 1, 2]}, "labels must be between 0 and 9, got -1"),
    ({"labels": [0, 1.5, 1, 2]}, "labels must be between 0 and 9, got 1.5"),
]


@pytest.mark.parametrize(("values", "message"), WRONG, ids=[message for _, message in WRONG])
def test_wrong_content_is_refused_by_file_rule_and_value(tmp_path, values, message):
    path = write_cifar10(tmp_path) / "data_batch_4"
    change(path, **values)
    with pytest.raises(UsageError) as caught:
        load(tmp_path)
    assert str(caught.value) == f"{path}: {message}"


def test_a_pickle_of_something_else_is_refused(tmp_path):
    path = write_cifar10(tmp_path) / "batches.meta"
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(UsageError, match="must hold a dictionary as in the CIFAR-10 python"):
        load(tmp_path)


def test_class_names_must_be_as_many_as_there_are_classes(tmp_path):
    path = write_cifar10(tmp_path) / "batches.meta"
    change(path, label_names=[b"cat", b"dog"])
    with pytest.raises(UsageError, match="label_names must be a list of 10 names"):
        load(tmp_path)


def test_crops_of_224_pixels_are_refused(tmp_path):
    write_cifar10(tmp_path)
    with pytest.raises(UsageError, match="--augment must be none or crop-flip for cifar10"):
        load(tmp_path, augment="imagenet")
