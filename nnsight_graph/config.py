"""What a user can set: ``CONFIG.APP`` for the library itself, ``CONFIG.API`` for a server."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import msgspec

from .disk import replacing
from .errors import NNsightDeprecationWarning, ours

_OF_OLD: dict[str, tuple[object, str]] = {
    "PYMOUNT": (False, "save() works on whatever a block names, and nothing is put on Python's own classes"),
    "CROSS_INVOKER": (True, "values of one invoke may always be used in another"),
    "TRACE_CACHING": (True, "a block is looked at and compiled once, whatever it says"),
    "CACHE_DIR": (None, "nothing is kept on disk between runs"),
    "FRAME_INJECTION": (True, "saved names always stand for their values after the block"),
    "CONTROL_FLOW_HACKS": (True, "if, for and while on traced values are always recorded"),
    "CONTROL_FLOW_HANDLING": (True, "if, for and while on traced values are always recorded"),
    "GLOBAL_TRACING": (True, "torch's functions are recorded in a block, and nothing is patched"),
    "DISABLE_CPP_BACKTRACE": (False, "no greenlets run here, so torch's traces of C++ do no harm"),
    "LOGGING": (False, 'nothing is logged: use nnsight_graph.log, or logging.getLogger("nnsight_graph") for your own lines'),
}
"""Switches of nnsight's that have nothing to switch: what holds here, and what that means."""


class AppConfig(msgspec.Struct):
    """Settings of the library.

    Attributes:
        DEBUG: Add an excerpt of the graph to errors raised inside a trace; ``False`` gives the short form.
        SCAN: Try every traced forward on fake tensors first, as ``model.trace(..., scan=True)`` does.
        VALIDATE: Check traces on fake tensors before the model runs: ``True``, ``False``, or ``"auto"``: programs that were not seen
            before, if the weights are not there yet or the input was scanned.
        AUTO_STOP: End a forward when all that a trace wants is there, where nobody could tell: not in training, with hooks of others, with
            arguments that the model might change, in a generation, or with modules of classes from outside torch and transformers.
            ``"any"`` takes modules of all classes; ``False`` lets every forward run to its end.
        VERIFY_BATCH: Whether the shortest prompt of a padded batch is run alone, once for a model, and its numbers are compared:
            ``"auto"``, unless the model's class is known to keep them; ``True``, before every padded batch; ``False``, never.
        REMOTE_LOGGING: Print what a server reports.
    """

    DEBUG: bool = True
    SCAN: bool = False
    VALIDATE: bool | str = "auto"
    AUTO_STOP: bool | str = True
    VERIFY_BATCH: bool | str = "auto"
    REMOTE_LOGGING: bool = True

    def __getattr__(self, name: str) -> Any:
        if name not in _OF_OLD:
            raise ours(AttributeError, f"CONFIG.APP has no {name!r}; it has {', '.join(self.__struct_fields__)}")
        return _OF_OLD[name][0]

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OF_OLD:
            text = f"CONFIG.APP.{name} = {value!r} changes nothing here: {_OF_OLD[name][1]}"
            warnings.warn(text, NNsightDeprecationWarning, stacklevel=2)
        else:
            super().__setattr__(name, value)


class ApiConfig(msgspec.Struct):
    """Settings of the connection to a server: an address (host or URL) and a key."""

    HOST: str = ""
    SSL: bool = True
    APIKEY: str = ""


class Config(msgspec.Struct):
    """All settings.

    >>> from nnsight_graph import CONFIG
    >>> CONFIG.APP.DEBUG
    True
    """

    APP: AppConfig = msgspec.field(default_factory=AppConfig)
    API: ApiConfig = msgspec.field(default_factory=ApiConfig)

    def set_default_api_key(self, key: str) -> None:
        """Use ``key`` for every remote call of this process."""
        self.API.APIKEY = key

    def save(self) -> Path:
        """Keep all settings, the key included, for later processes of this user.

        They are read when the library is imported, from ``$NNSIGHT_GRAPH_CONFIG``, or else from ``nnsight_graph/config.json`` in
        ``$XDG_CONFIG_HOME`` or ``~/.config``.

        Returns:
            The file.
        """
        path = _kept_in()
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            beside.chmod(0o600)  # it holds a key
            beside.write_bytes(msgspec.json.format(msgspec.json.encode(self)))
        path.chmod(0o600)
        return path


def _kept_in() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(os.environ.get("NNSIGHT_GRAPH_CONFIG") or f"{home}/nnsight_graph/config.json").expanduser()


def _kept() -> Config:
    """What :meth:`Config.save` has kept; what cannot be read is left alone, with a warning."""
    try:
        path = _kept_in()
        return msgspec.json.decode(path.read_bytes(), type=Config)
    except (FileNotFoundError, NotADirectoryError, RuntimeError):  # the last one: nobody knows where home is
        return Config()
    except (OSError, msgspec.DecodeError) as error:
        warnings.warn(f"the settings in {path} cannot be read, and are left alone: {error}", UserWarning, stacklevel=2)
        return Config()


CONFIG = _kept()
