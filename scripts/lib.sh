# shellcheck shell=bash
# Shared by the scripts that set themselves up: `source` it, then call `setup`.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv

# Make .venv, or reuse it if it was made from the pyproject.toml and constraints.txt of now.
setup() {
    local python=${PYTHON:-python3} stamp=$venv/.installed wanted
    wanted=$(cat "$root/pyproject.toml" "$root/scripts/constraints.txt" - <<<"$root" | cksum)
    if [[ ! -f $stamp || $(<"$stamp") != "$wanted" ]]; then
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
            echo "emoreg needs Python 3.10 or newer; name one with PYTHON=..." >&2
            return 1
        }
        echo "Setting up $venv (once; a few minutes) ..." >&2
        rm -f "$stamp"
        "$python" -m venv "$venv"
        "$venv/bin/python" -m pip install -qq --disable-pip-version-check \
            --constraint "$root/scripts/constraints.txt" --editable "${root}[dev]"
        echo "$wanted" >"$stamp"  # last: an install that broke off is done again
    fi
    export PATH=$venv/bin:$PATH
}
