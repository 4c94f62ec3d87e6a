#!/usr/bin/env bash
# Make the environment that the Makefile uses. Safe to interrupt and to repeat: the stamp is written last.
#
#   tools/setup_env.sh PYTHON ENVIRONMENT STAMP
#
# PYTHON is the interpreter to build from, ENVIRONMENT a folder (a virtual environment, or an active conda one),
# STAMP the file that says "complete".
set -euo pipefail

python=$1 environment=$2 stamp=$3
needed_mb=${PRIVLIB_ENV_MB:-4000}
started=$SECONDS
missing=()

# What is missing is named at once, before anything long starts.
if ! command -v "$python" >/dev/null 2>&1; then
  missing+=("$python: install Python 3.11 or 3.12, or name one with PYTHON=/path/to/python")
elif ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; then
  missing+=("Python 3.11 or 3.12: $python is $("$python" --version 2>&1 | tail -n 1)")
elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  missing+=("Python's venv and ensurepip (Debian: apt-get install python3-venv)")
fi
command -v "${CXX:-c++}" >/dev/null 2>&1 || command -v g++ >/dev/null 2>&1 || command -v clang++ >/dev/null 2>&1 ||
  missing+=("a C++ compiler: install g++ or clang++ (Debian: apt-get install g++)")
parent=$(dirname "$environment")
free_mb=$(df -Pm "$parent" 2>/dev/null | awk 'NR == 2 {print $4}')
if [ ! -x "$environment/bin/python" ] && [ "${free_mb:-0}" -lt "$needed_mb" ]; then
  missing+=("disk space: ${free_mb:-0} MB free in $parent, about $needed_mb MB needed (PRIVLIB_ENV_MB=N to ask for less)")
fi
if [ ${#missing[@]} -gt 0 ]; then
  printf 'Missing on this machine:\n' >&2
  printf '  - %s\n' "${missing[@]}" >&2
  exit 1
fi

if [ ! -d "$environment/conda-meta" ] && ! "$environment/bin/python" -m pip --version >/dev/null 2>&1; then
  echo "creating $environment with $("$python" --version)"
  "$python" -m venv --clear "$environment"
fi
echo "installing what requirements.lock pins (some minutes the first time)"
"$environment/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements.lock
"$environment/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
mkdir -p "$(dirname "$stamp")"
date -u +%Y-%m-%dT%H:%M:%SZ >"$stamp"
echo "environment ready in $((SECONDS - started)) s"
