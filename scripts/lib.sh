# shellcheck shell=bash
# Shared by the scripts that set themselves up: `source` it, then call `setup`, or `setup dev` for the tools of development.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv

# Make .venv, or reuse it if it was made from the pyproject.toml and constraints.txt of now and has what is asked for.
setup() {
    local python=${PYTHON:-python3} stamp=$venv/.installed extra=${1:-} wanted installed=""
    wanted=$(cat "$root/pyproject.toml" "$root/scripts/constraints.txt" - <<<"$root" | cksum)
    [[ ! -f $stamp ]] || installed=$(<"$stamp")
    if [[ $installed != "$wanted dev" && $installed != "$wanted $extra" ]]; then
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
            echo "emoreg needs Python 3.11 or newer; name one with PYTHON=..." >&2
            return 1
        }
        echo "Setting up $venv (once; a few minutes) ..." >&2
        rm -f "$stamp"
        "$python" -m venv "$venv"
        "$venv/bin/python" -m pip install -qq --disable-pip-version-check \
            --constraint "$root/scripts/constraints.txt" --editable "$root${extra:+[$extra]}"
        echo "$wanted $extra" >"$stamp"  # last: an install that broke off is done again
    fi
    export PATH=$venv/bin:$PATH
}
