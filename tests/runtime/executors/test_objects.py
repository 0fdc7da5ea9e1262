"""Large results of subtasks in shared memory: whole, private, and gone when nobody needs them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.operators.tasks import _objects
from engine.operators.tasks._objects import (
    LARGE_BYTES,
    LostObjectError,
    Objects,
    ObjectWriter,
    read,
)
from engine.operators.tasks._requests import ObjectRef, Pickled


@pytest.fixture
def objects() -> Iterator[Objects]:
    """Of a pool of its own."""
    made = Objects()
    yield made
    made.free_all()


def path_of(ref: ObjectRef[object]) -> Path:
    """Its file."""
    return _objects._FOLDER / ref.name


def large(objects: Objects) -> ObjectRef[object]:
    """A large object."""
    ref = ObjectWriter(objects.prefix).written(b"x" * (LARGE_BYTES + 1))
    assert isinstance(ref, ObjectRef)
    return ref


def test_small_results_travel_by_themselves(objects: Objects):
    """They are no files."""
    written = ObjectWriter(objects.prefix).written([1, "two"])
    assert isinstance(written, Pickled)
    assert read(written) == [1, "two"]


def test_a_large_result_is_a_file_for_its_owner_alone(objects: Objects):
    """With all parts of it, those that pickle hands on apart too."""
    value = [bytearray(b"y" * LARGE_BYTES), pickle.PickleBuffer(b"z" * LARGE_BYTES)]
    ref = ObjectWriter(objects.prefix).written(value)
    assert isinstance(ref, ObjectRef)
    assert path_of(ref).stat().st_mode & 0o777 == 0o600
    first, second = read(ref)
    assert (bytes(first), bytes(second)) == (bytes(value[0]), b"z" * LARGE_BYTES)


def test_what_nobody_needs_is_removed(objects: Objects):
    """And is lost to whoever asks for it all the same."""
    ref = large(objects)
    objects.keep(ref.name)
    objects.free(ref.name)
    assert not path_of(ref).exists()
    with pytest.raises(LostObjectError):
        read(ref)


def test_what_a_dead_process_did_not_tell_of_is_swept(objects: Objects):
    """What it had told of is still needed."""
    told, untold = (
        large(objects),
        ObjectWriter(objects.prefix + "-0").written(b"x" * 2 * LARGE_BYTES),
    )
    objects.keep(told.name)
    assert isinstance(untold, ObjectRef)
    path_of(untold).rename(path_of(told).with_name(f"{objects.prefix}-{os.getpid()}-9"))
    objects.sweep(os.getpid())
    assert path_of(told).exists()
    assert not path_of(told).with_name(f"{objects.prefix}-{os.getpid()}-9").exists()


def test_another_users_file_in_its_place_is_not_read(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
):
    """Whoever may make files there could have code run otherwise."""
    ref = large(objects)
    assert read(ref)
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    with pytest.raises(LostObjectError):
        read(ref)


def test_half_a_file_is_a_lost_object(objects: Objects):
    """Nobody reads what isn't whole."""
    ref = large(objects)
    with path_of(ref).open("r+b") as file:
        file.truncate(9)
    with pytest.raises(LostObjectError):
        read(ref)
