"""Write environment.yml, the conda way in, from pyproject.toml: python and pip from conda, everything else from pip.

python tools/environment_yml.py            writes the file
python tools/environment_yml.py --check    fails when it differs from what would be written
"""

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "environment.yml"


def render(pyproject: Path = ROOT / "pyproject.toml") -> str:
    """The file's text."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    lines = [
        "# Made by `make environment.yml` from pyproject.toml. Do not edit.",
        f"name: {project['name']}",
        "channels:",
        "  - conda-forge",
        "dependencies:",
        f'  - "python{project["requires-python"]}"',
        "  - pip",
        "  - pip:",
        *(f'      - "{requirement}"' for requirement in project["dependencies"]),
    ]
    for extra, required in project.get("optional-dependencies", {}).items():
        lines += [f"      # {extra}", *(f'      - "{requirement}"' for requirement in required)]
    return "\n".join([*lines, "      # this project", "      - -e ."]) + "\n"


def main() -> int:
    """0, or 1 when `--check` finds the file out of date."""
    if "--check" in sys.argv[1:]:
        if TARGET.read_text(encoding="utf-8") != render():
            print(f"{TARGET.name} differs from pyproject.toml: run `make environment.yml`", file=sys.stderr)
            return 1
    else:
        TARGET.write_text(render(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
