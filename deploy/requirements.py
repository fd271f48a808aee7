"""`python requirements.py pyproject.toml EXTRA...`: what the project and its extras need.

Reads the file alone, so that an image can hold these packages in a layer below the project's own.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text("utf-8"))["project"]
extras = [project["optional-dependencies"][name] for name in sys.argv[2:]]
print(*project["dependencies"], *(line for extra in extras for line in extra), sep="\n")
