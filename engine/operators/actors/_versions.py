"""Brings the state of an actor that was saved in an older form to the present one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from engine.dataflow import f_repr
from engine.errors import InconsistentPartitionsError, UserCodeError
from engine.operators.actors._ref import Ref

if TYPE_CHECKING:
    from engine.operators.actors._actor import Blueprint


def present_fields(
    blueprint: Blueprint, ref: Ref, version: int, fields: dict[str, Any]
) -> dict[str, Any]:
    """The fields of a saved state in the version that its class has now.

    Args:
        blueprint: Of the class.
        ref: Whose state it is.
        version: In which it was saved.
        fields: By their names.

    Raises:
        InconsistentPartitionsError: It is of a newer version, nothing says what becomes of an older
            one, or it has a field that there is none for any more.
        UserCodeError: `migrate` failed.
    """
    if version != blueprint.version:
        fields = _migrated(blueprint, ref, version, fields)
    gone = fields.keys() - set(blueprint.images.names)
    if gone:
        names = ", ".join(map(repr, sorted(gone)))
        msg = (
            f"the store has {names} in the state of {ref!r}, and `{blueprint.name}.State` has no "
            f"such field, so it would be lost. Give `{blueprint.name}` a higher `version` and a "
            "`migrate` that takes it out or gives it another name"
        )
        raise InconsistentPartitionsError(msg)
    return fields


def _migrated(
    blueprint: Blueprint, ref: Ref, version: int, fields: dict[str, Any]
) -> dict[str, Any]:
    where = (
        f"the stored state of {ref!r} is of version {version}, and `{blueprint.name}.State` is of "
        f"version {blueprint.version}"
    )
    if version > blueprint.version:
        msg = (
            f"{where}: a newer flow has saved it. Run that one, or restore a savepoint from before"
        )
        raise InconsistentPartitionsError(msg)
    migrate = blueprint.migrate
    if migrate is None:
        msg = (
            f"{where}: nothing says how the old one becomes a new one. Give `{blueprint.name}` a "
            "`migrate` function, and keep it for as long as old states are left"
        )
        raise InconsistentPartitionsError(msg)
    hint = f"`migrate` gets (version, fields) and returns the fields of version {blueprint.version}"
    try:
        migrated: Any = migrate(version, fields)
    except Exception as ex:
        msg = f"{where}: {f_repr(migrate)} raised {type(ex).__name__}: {ex}"
        raise UserCodeError(msg, function=migrate, hint=hint) from ex
    if not isinstance(migrated, dict):
        msg = f"{where}: {f_repr(migrate)} returned {migrated!r}, which is no dict of fields"
        raise UserCodeError(msg, function=migrate, hint=hint)
    return cast("dict[str, Any]", migrated)
