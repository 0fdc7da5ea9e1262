"""Epochs made durable: what a dataflow needs to go on after a crash where it stopped."""

from engine.recovery._config import RecoveryConfig

__all__ = ["RecoveryConfig"]
