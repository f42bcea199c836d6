#!/usr/bin/env bash
# Makes .venv from requirements.txt, or completes one that was left half made. The Makefile calls it when a stamp is missing or old;
# pip leaves alone what is installed already, so that a change elsewhere than in requirements.txt needs no network.
#   infra/setup/venv.sh        PYTHON=/path/to/python to choose the interpreter
set -euo pipefail
cd "$(dirname "$0")/../.."
export PIP_DISABLE_PIP_VERSION_CHECK=1

usable() { "$1" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if usable "$candidate"; then echo "$candidate"; return; fi
    done
    echo "memstream needs Python 3.11 or later with its venv module, and ${PYTHON:-python3, python3.13, python3.12, python3.11} is none." >&2
    echo "Install one (Debian and Ubuntu: apt install python3-venv), or name one: make setup PYTHON=/path/to/python3.13" >&2
    return 1
}

# One line of progress on a terminal; in a log only the large downloads.
progress() {
    awk -v total="$1" -v terminal="$([ -t 1 ] && echo 1)" '
        function say(text) { if (terminal) printf "\r\033[K%s", text; else print text; fflush() }
        /^(Collecting|Requirement already satisfied:)/ { seen++; if (terminal) say(sprintf("  %d of %d packages", seen, total)) }
        /^ +Downloading/ && / MB\)/ {
            size = $NF == "MB)" ? $(NF - 1) : $NF; gsub(/[^0-9.]/, "", size)
            if (terminal || size + 0 > 100) say(sprintf("  %d of %d packages: %s, %d MB", seen, total, $2, size))
        }
        /^Installing collected packages/ { say("  unpacking, a minute or two") }
        END { if (terminal) printf "\r\033[K" }'
}

if [ ! -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    echo "Making .venv with $("$python" --version): some 3 GB to fetch, several minutes, once."
    rm -rf .venv
    "$python" -m venv .venv
fi
.venv/bin/python -m pip install --require-hashes -r requirements.txt | progress "$(grep -c '^[a-z0-9]' requirements.txt)"
.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
