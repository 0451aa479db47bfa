"""What an exporter or a runtime refuses: one sentence, a hint, and the exit code the command line ends with."""


class UserError(Exception):
    """What a user can mend: `message` is one sentence without a full stop, `hint` says what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ExporterError(UserError):
    """Of an exporter or a runtime."""

    exit_code = 6


class RuntimeMissing(ExporterError):
    """A runtime, provider or device that was asked for is not here."""

    exit_code = 3


class ArtifactRejected(ExporterError):
    """A file that is not what it claims, or that we will not open."""

    exit_code = 4


class ExportFailed(ExporterError):
    """The artifact could not be built, or does not have the precision or form that was asked for."""

    exit_code = 6
