"""What a continuation must have in common with its checkpoint: what crosses between host and device among it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from systolora.errors import UserError
from systolora.training.origin import Origin, _kept
from systolora.training.settings import TrainSettings


def origin(**changes: Any) -> Origin:
    return Origin(_kept(replace(TrainSettings(), **changes)), {"model": {"a": "1"}, "data": {"b": "2"}})


def test_what_crosses_must_be_the_same() -> None:
    saved = origin().facts()
    assert saved["settings"]["transfer_type"] == "bfloat16"
    origin().check(saved)
    with pytest.raises(
        UserError, match="--transfer-type is 'float32' but the checkpoint has 'bfloat16'; give the same"
    ):
        origin(transfer_type="float32").check(saved)


def test_a_checkpoint_from_before_the_setting_was_trained_with_float32() -> None:
    saved = origin().facts()
    del saved["settings"]["transfer_type"]
    origin(transfer_type="float32").check(saved)
    with pytest.raises(UserError, match="--transfer-type is 'bfloat16' but the checkpoint has 'float32'"):
        origin().check(saved)


def test_where_nothing_crosses_it_does_not_matter() -> None:
    saved = origin(precision="float32").facts()
    origin(precision="float32", transfer_type="float32").check(saved)
    with pytest.raises(UserError, match="--precision is 'int8' but the checkpoint has 'float32'"):
        origin(transfer_type="float32").check(saved)
