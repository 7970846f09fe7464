"""Run the suite below a directory, where there is no pytest: a line of JSON for each case, with what went wrong."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from pathlib import Path

from tests.suites import posix


def main(directory: str) -> None:
    for case in posix.CASES:
        at = Path(tempfile.mkdtemp(dir=directory))
        at.chmod(0o755)
        error = None
        here = os.getcwd()
        try:
            case(at)
        except BaseException as failure:
            error = "".join(traceback.format_exception(failure)[-3:])
        finally:
            os.chdir(here)
        print(json.dumps({"case": case.__name__, "error": error}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
