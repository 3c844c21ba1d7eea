"""The documentation site: `make docs` builds it into docs/_build/html."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"]
author = f"The {project} authors"
source = (ROOT / "src" / project / "__init__.py").read_text()
release = version = re.search(r'__version__ = "(.+)"', source)[1]

extensions = ["myst_parser"]
myst_heading_anchors = 4  # links to headings are checked too
myst_enable_extensions = ["dollarmath"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"{project} {version}"
html_show_copyright = False
