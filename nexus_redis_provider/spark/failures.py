"""What Spark raises, and the one line of it that says what happened."""

from __future__ import annotations

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException, PythonException

# Spark's own, and those for which it has no Python class: a file system, a reader's option.
SPARK_ERRORS = (PySparkException, Py4JJavaError)
# Spark Connect puts it on a line of its own, after the stack.
_CODE = " SQLSTATE:"


def reason(error: Exception) -> str:
    """The line that says what happened, out of stacks of Java's and of a worker's Python."""
    if isinstance(error, Py4JJavaError):
        return str(error.java_exception.toString()).strip().splitlines()[0]
    lines = [line for line in str(error).strip().splitlines() if not line.startswith(_CODE)]
    lines = lines or [repr(error)]
    return lines[-1] if isinstance(error, PythonException) else lines[0]
