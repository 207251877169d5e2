#!/usr/bin/env bash
# usage: tests/versions/try.sh lowest|newest
# Installs the package into an environment of its own and runs smoke.py there: with the lowest declared version of each
# dependency on the lowest Python, or with whatever pip finds on the newest Python of this machine. TORCH=VERSION takes
# another torch, such as one whose CPU build is at hand: on Linux, the package index has builds for CUDA, of 3 GB.
# Exit code 1: versions do not fit together, or the run failed. A Python or a network that is not there is said, and 0.
set -uo pipefail
which=$1
here=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

case $which in
  lowest) versions="3.11" ;;
  newest) versions="3.14 3.13" ;;
  *) echo "usage: $0 lowest|newest" >&2; exit 2 ;;
esac
python=""
for version in $versions; do
  for found in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/python; do
    [ -z "$python" ] && "$found" -c 'import venv, ensurepip' 2>/dev/null && python=$found
  done
done
if [ -z "$python" ]; then
  echo "test-$which: skipped, there is no Python $versions on this machine"
  exit 0
fi

"$python" -m venv "$work/venv" || exit 1
touch "$work/constraints"
if [ "$which" = lowest ]; then
  "$work/venv/bin/python" "$here/tests/versions/lowest.py" > "$work/constraints" || exit 1
fi
if [ -n "${TORCH:-}" ]; then
  sed -i '/^torch==/d' "$work/constraints"
  echo "torch==$TORCH" >> "$work/constraints"
fi
if ! PIP_CONSTRAINT="$work/constraints" timeout 1200 "$work/venv/bin/pip" install "$here" > "$work/log" 2>&1; then
  grep -v -e "^ " -e Collecting -e WARNING "$work/log" | tail -20
  if grep -q -e ResolutionImpossible -e "No matching distribution" -e "Failed to build" "$work/log"; then
    echo "test-$which: the declared versions cannot be installed on $("$python" --version)"
    exit 1
  fi
  echo "test-$which: skipped, since pip could not download and install what is needed within 20 minutes"
  exit 0
fi
cd "$work" || exit 1
env -u PYTHONPATH "$work/venv/bin/python" -W ignore "$here/tests/versions/smoke.py" "$work/runs"
