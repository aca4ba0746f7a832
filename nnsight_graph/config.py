"""What a user can set: ``CONFIG.APP`` for the library itself, ``CONFIG.API`` for a server."""

from __future__ import annotations

import msgspec


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


CONFIG = Config()
