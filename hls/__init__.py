"""The hardware: configuration, instruction set, C++ templates and the generator."""

from .config import BOARDS, ArrayConfig, ConfigError, board_config

__all__ = ["BOARDS", "ArrayConfig", "ConfigError", "board_config"]
