"""What the suite refuses, by kind: a record, a parameter, a layout, a benchmark."""

from privlib.errors import PrivlibError


class RecordError(PrivlibError):
    """A metric, figure or run record that does not say what a record must say."""


class ParameterError(PrivlibError):
    """A notebook parameter that is unknown, of another type than its default, or not a literal."""


class ProjectError(PrivlibError):
    """A notebook, benchmark or project folder that is not where it was looked for."""


class ClusterError(PrivlibError):
    """A Dask scheduler that does not answer, or workers that cannot run notebooks."""
