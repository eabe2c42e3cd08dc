"""Damage to the files of an Orbax checkpoint, as disks and people do it."""

import pathlib


def data_files(folder: pathlib.Path, least: int = 10_000) -> list[pathlib.Path]:
    """Files that hold arrays' bytes, of more than `least` bytes."""
    return [p for p in folder.rglob("d/*") if p.is_file() and p.stat().st_size > least]


def lose_data(folder):
    for path in data_files(folder):
        path.unlink()


def truncate_data(folder):
    for path in data_files(folder):
        path.write_bytes(path.read_bytes()[:-1000])


def empty_data(folder):
    for path in data_files(folder):
        path.write_bytes(b"")


def flip_data(folder, least: int = 10_000):
    for path in data_files(folder, least):
        data = bytearray(path.read_bytes())
        middle = len(data) // 2
        data[middle : middle + 64] = bytes(b ^ 0xFF for b in data[middle : middle + 64])
        path.write_bytes(data)


def lose_manifest(folder):
    (folder / "state" / "manifest.ocdbt").unlink()


def lose_metadata(folder):
    (folder / "state" / "_METADATA").unlink()


def lose_checksums(folder):
    (folder / "_CHECKPOINT_METADATA").unlink()


DAMAGES = (
    lose_data,
    truncate_data,
    empty_data,
    flip_data,
    lose_manifest,
    lose_metadata,
    lose_checksums,
)
