#!/usr/bin/env bash
# Runs tests/pynq on the real pynq package, in an environment for each version: run.sh [pynq4] [pynq3]; both by default.
# An environment that cannot be made is a failure, not a skip. Extra arguments for pytest: PYTEST_ARGS="-k opening".
set -euo pipefail
cd "$(dirname "$0")/../.."

versions=("$@")
[ ${#versions[@]} -gt 0 ] || versions=(pynq4 pynq3)

# pynq 3 and 4 need numpy < 2 and setuptools <= 80, and grpcio 1.64 has wheels up to Python 3.12.
find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3.11 python3.12 python3.10 python3; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "tests/pynq needs Python 3.10, 3.11 or 3.12 with its venv module: PYTHON=/path/to/python3.11 $0" >&2
  return 1
}

make_environment() {
  local version=$1 environment=.venv-$1 constraints=constraints-$1.txt packages=(pytest pytest-timeout hypothesis torch)
  local stamp=$environment/.made
  if [ -f "$stamp" ] && [ "$stamp" -nt "$constraints" ] && [ "$stamp" -nt pyproject.toml ]; then
    return
  fi
  [ "$version" = pynq4 ] && packages+=(diffusers transformers peft accelerate safetensors pillow PyYAML nbclient ipykernel)
  echo "== making $environment"
  local python
  python=$(find_python)
  [ -x "$environment/bin/python" ] || "$python" -m venv "$environment"
  "$environment/bin/pip" install --quiet --constraint "$constraints" setuptools pynq jinja2 typer rich "${packages[@]}"
  "$environment/bin/pip" install --quiet --no-deps --no-build-isolation --editable .
  "$environment/bin/pip" check
  touch "$stamp"
}

status=0
for version in "${versions[@]}"; do
  if [ ! -f "constraints-$version.txt" ]; then
    echo "no constraints-$version.txt: there are pynq4 and pynq3" >&2
    exit 2
  fi
  # A subshell under `set -e` would go on after a failure inside `if`; so it is run apart and its status looked at.
  set +e
  (set -e; make_environment "$version")
  made=$?
  set -e
  if [ $made -ne 0 ]; then
    echo "FAILED: the environment of $version could not be made" >&2
    status=1
    continue
  fi
  echo "== tests/pynq on $(.venv-"$version"/bin/python -W ignore -c 'import pynq; print("pynq", pynq.__version__)' 2>/dev/null)"
  OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} ".venv-$version/bin/python" -m pytest tests/pynq ${PYTEST_ARGS:-} || status=1
done
exit $status
