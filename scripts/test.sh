#!/usr/bin/env bash
# Everything that must hold before a change is finished: form, lints, layers, licences, tests, documents, browser, clients.
#
#   scripts/test.sh            all of it
#   scripts/test.sh NAME...    only the steps whose name contains one of these words
#   CI=true scripts/test.sh    nothing may be skipped: skipped steps and tests count as failed
#
# On a Debian machine it installs missing programs, as root or by sudo. The Rust toolchain, Python 3 and Node.js (20 or later)
# must exist before. It lists skipped steps with their reasons, and ends with one line: `N passed, N failed, N skipped`. The exit
# status is 0 when nothing failed.

set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly CI="${CI:-false}"
readonly TARGET="${CARGO_TARGET_DIR:-target}"
readonly STEP_LIMIT="${STEP_LIMIT:-30m}" # a step that hangs must not block the other steps
readonly WANTED=("$@")

export MILLSTREAM_BIN="$PWD/$TARGET/debug/millstream"
[[ "$TARGET" = /* ]] && MILLSTREAM_BIN="$TARGET/debug/millstream"
export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-never}"
# Most tests wait for deadlines, processes and disks most of the time.
export RUST_TEST_THREADS="${RUST_TEST_THREADS:-4}"
# All processes of tests inherit this marker, also programs of command handlers and lifelines: see `left_behind`.
export MILLSTREAM_LIFELINE="gate-$$-$RANDOM$RANDOM"

# Tests that are ignored for a known reason, which the test names. They must pass once the reason is gone. The list is
# exact: an ignored test that is not listed counts as skipped, and a listed test that is no longer ignored counts as failed.
readonly IGNORED=()

passed=0
failed=0
skipped=0
unable=0    # tests that skipped themselves
notes=()    # skipped and failed steps, listed at the end
timings=()
built=false # the program exists and is built from this tree

work="$(mktemp -d)"
readonly log="$work/log"
trap 'rm -rf "$work"' EXIT
trap 'stop 130' INT
trap 'stop 143' TERM

# === Steps ===

# True when this step was requested.
wanted() {
    local word
    [[ ${#WANTED[@]} -eq 0 ]] && return 0
    for word in "${WANTED[@]}"; do
        [[ "$1" == *"$word"* ]] && return 0
    done
    return 1
}

skip() {
    local name=$1 reason=$2
    wanted "$name" || return 0
    skipped=$((skipped + 1))
    notes+=("SKIPPED $name: $reason")
    printf '\n*** SKIPPED %s: %s ***\n' "$name" "$reason"
}

fail() {
    failed=$((failed + 1))
    notes+=("FAILED  $1: $2")
    printf '\n*** FAILED %s: %s ***\n' "$1" "$2"
}

# run COMMAND...: runs it within the limit of a step, shows and keeps its output, and returns its exit status.
# The command runs in the background, so that this script handles a signal at once: see `stop`.
run() {
    {
        timeout --kill-after=10s "$STEP_LIMIT" "$@" 2>&1 &
        echo $! >"$work/pid"
        local status=0
        wait $! || status=$?
        echo "$status" >"$work/status"
    } | tee "$log" &
    wait $!
    rm -f "$work/pid"
    return "$(<"$work/status")"
}

# Ends the running step with all its children, and then this script.
stop() {
    [[ -f "$work/pid" ]] && kill "$(<"$work/pid")" 2>/dev/null
    printf '\nstopped\n' >&2
    exit "$1"
}

# step NAME COMMAND...: runs it, shows its output, counts the tests that it reports (one where it reports none).
# Exit status 77 means that the step skipped itself.
step() {
    local name=$1 status=0 began seconds counts
    shift
    wanted "$name" || return 0
    printf '\n=== %s: %s\n' "$name" "$*"
    began=$SECONDS
    run "$@" || status=$?
    seconds=$((SECONDS - began))
    timings+=("$(printf '%5d s  %s' "$seconds" "$name")")
    if [[ $status -eq 77 ]]; then
        skip "$name" "$(grep -F -m 1 SKIPPED "$log" | tr -d '*' || echo 'without a reason')"
        return 0
    fi
    counts="$(count <"$log")"
    read -r ran broke left <<<"$counts"
    local missing
    missing="$(grep -c '^\*\*\* SKIPPED' "$log" || true)"
    if [[ $missing -gt 0 ]]; then
        # Tests that the machine does not permit, such as a separate small disk. Cargo counts them as passed.
        ran=$((ran - missing))
        unable=$((unable + missing))
        notes+=("$(grep -m 3 '^\*\*\* SKIPPED' "$log" | tr -d '*')")
    fi
    if [[ $((ran + broke)) -eq 0 ]]; then
        if [[ $status -eq 0 ]]; then ran=1; else broke=1; fi
    fi
    if [[ $status -ne 0 && $broke -eq 0 ]]; then broke=1; fi
    passed=$((passed + ran))
    failed=$((failed + broke))
    if [[ "$name" == tests ]]; then
        local known stale
        known="$(comm -12 <(ignored <"$log") <(listed) | wc -l)"
        stale="$(comm -13 <(ignored <"$log") <(listed) | tr '\n' ' ')"
        left=$((left - known))
        if [[ -n "$stale" && $status -ne 124 ]]; then
            broke=$((broke + 1))
            failed=$((failed + 1))
            notes+=("FAILED  $name: listed in IGNORED and not ignored: $stale")
        fi
    fi
    if [[ $left -gt 0 ]]; then
        skipped=$((skipped + left))
        notes+=("SKIPPED $name: $left ignored tests")
    fi
    [[ $status -eq 124 ]] && printf '*** %s did not end within %s ***\n' "$name" "$STEP_LIMIT"
    if [[ $broke -gt 0 ]]; then
        notes+=("FAILED  $name: exit status $status")
        printf -- '--- %s FAILED after %d s\n' "$name" "$seconds"
        return 0
    fi
    printf -- '--- %s ok, %d s\n' "$name" "$seconds"
}

# Passed, failed and ignored tests in the output of `cargo test`, or in lines `N passed, N failed`.
count() {
    awk '
        /^test result: / { for (i = 1; i < NF; i++) {
            if ($(i + 1) ~ /^passed/) ran += $i; if ($(i + 1) ~ /^failed/) broke += $i; if ($(i + 1) ~ /^ignored/) left += $i } }
        /^([a-z-]+: .*)?[0-9]+ passed, [0-9]+ failed/ { for (i = 1; i < NF; i++) {
            if ($(i + 1) ~ /^passed/) ran += $i; if ($(i + 1) ~ /^failed/) broke += $i } }
        END { print ran + 0, broke + 0, left + 0 }
    '
}

# Names of the ignored tests in the output of `cargo test`, sorted.
ignored() {
    sed -n 's/^test \(.*::\)\{0,1\}\([A-Za-z0-9_]*\) \.\.\. ignored.*/\2/p' | sort
}

# The names in IGNORED, which may be empty.
listed() {
    [[ ${#IGNORED[@]} -eq 0 ]] || printf '%s\n' "${IGNORED[@]}" | sort
}

# Steps that need the program.
with_program() {
    if [[ $built == true ]]; then
        step "$@"
    else
        skip "$1" "the program was not built"
    fi
}

# The last step: fails if a process of a test still runs, and kills it. Only processes with the marker of this run count.
left_behind() {
    local name="processes left behind" found
    wanted "$name" || return 0
    printf '\n=== %s\n' "$name"
    found="$(env -u MILLSTREAM_LIFELINE python3 - "$MILLSTREAM_LIFELINE" <<'PYTHON'
import os, signal, sys, time

mark = sys.argv[1].encode()


def marked():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as environ, open(f"/proc/{pid}/cmdline", "rb") as command:
                if mark in environ.read():
                    yield int(pid), command.read().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            pass


# Gives processes that are about to end time to do so.
deadline = time.monotonic() + 10
while left := list(marked()):
    if time.monotonic() > deadline:
        break
    time.sleep(0.1)
for pid, command in left:
    print(pid, command)
    os.kill(pid, signal.SIGKILL)
PYTHON
)"
    if [[ -n "$found" ]]; then
        printf '%s\n' "$found"
        fail "$name" "$(wc -l <<<"$found") processes of tests were still there"
    else
        passed=$((passed + 1))
        printf -- '--- %s ok\n' "$name"
    fi
}

# === Missing programs ===

# install COMMAND PACKAGE...: installs Debian packages where the command is missing; false when that is not possible.
install() {
    local command=$1
    shift
    command -v "$command" >/dev/null && return 0
    command -v apt-get >/dev/null || return 1
    local root=()
    if [[ $(id -u) -ne 0 ]]; then
        sudo -n true 2>/dev/null || return 1
        root=(sudo)
    fi
    printf '%s is missing, installing %s\n' "$command" "$*"
    if [[ -z "${apt_updated:-}" ]]; then
        "${root[@]}" apt-get update -qq || true
        apt_updated=yes
    fi
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null || return 1
    hash -r
    command -v "$command" >/dev/null
}

# up_to_date STAMP FILE: true when STAMP was made from the current FILE.
up_to_date() {
    [[ -f "$1" ]] && cmp -s "$1" "$2"
}

# The packages of a folder with a package-lock.json.
npm_packages() {
    up_to_date "$1/node_modules/.installed" "$1/package-lock.json" && return 0
    (cd "$1" && npm ci --no-audit --no-fund --loglevel=error) && cp "$1/package-lock.json" "$1/node_modules/.installed"
}

# python_packages FOLDER: the packages of its requirements.txt, in a separate environment.
python_packages() {
    local requirements=$1/requirements.txt venv
    venv="$(venv_of "$1")"
    up_to_date "$venv/installed" "$requirements" && return 0
    if ! python3 -c 'import ensurepip' 2>/dev/null; then
        # There is no command to check. This package contains the module.
        install no-such-command python3-venv || python3 -c 'import ensurepip' || return 1
    fi
    python3 -m venv --clear "$venv" \
        && "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$requirements" \
        && cp "$requirements" "$venv/installed"
}

# The path of the environment of a folder.
venv_of() {
    echo "$TARGET/venv-$(basename "$1")"
}

# Node.js 20 or later and npm.
node_is_new_enough() {
    install node nodejs && install npm npm && [[ "$(node -p 'Number(process.versions.node.split(".")[0]) >= 20')" == true ]]
}

for tool in cargo python3; do
    if ! command -v "$tool" >/dev/null; then
        echo "test.sh: \`$tool\` is missing; install the Rust toolchain (rustup) and Python 3 first" >&2
        exit 64
    fi
done
install cc gcc libc6-dev || echo "there is no C compiler; some crates will not build"
install curl curl ca-certificates || echo "there is no curl; the README's commands cannot be tested"
# Debian installs it in a folder that only root has in PATH.
PATH="$PATH:/usr/sbin" install nginx nginx || echo "there is no nginx; a node behind it cannot be tested"
install faketime faketime || echo "there is no faketime; jumps of the wall clock cannot be tested"

# === Form, lints, layers, licences ===

step "form" cargo fmt --all --check
step "layers: self-test" scripts/layers --self-test
step "layers" scripts/layers
step "words: self-test" scripts/words --self-test
step "words" scripts/words
step "scale: self-test" scripts/scale --self-test
step "scale: examples of the page" scripts/scale --check
step "fuzz corpus" fuzz/make-corpus --check
step "licences: self-test" scripts/licences --self-test
step "licences" scripts/licences
# `--all-targets` compiles the benchmarks and examples too.
step "lints" cargo clippy --locked --workspace --all-targets -- -D warnings

# === Build and tests ===

before=$failed
if wanted "build"; then
    step "build" cargo build --locked --workspace
    [[ $failed -eq $before && -x "$MILLSTREAM_BIN" ]] && built=true
elif [[ -x "$MILLSTREAM_BIN" ]]; then
    built=true
fi
step "tests" cargo test --locked --workspace --no-fail-fast
step "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps
step "example: embed" cargo run --locked --quiet --example embed -- --once
with_program "demo" "$MILLSTREAM_BIN" demo --once

# === Documents ===

with_program "config reference" scripts/config-reference
if command -v curl >/dev/null; then
    with_program "readme" scripts/readme-check
else
    skip "readme" "curl is missing and cannot be installed here"
fi

if ! wanted "journal format"; then
    :
elif ! python_packages tests/journal; then
    skip "journal format" "its Python packages cannot be installed here"
else
    with_program "journal format" "$(venv_of tests/journal)/bin/python" scripts/read-journal-check
fi

# === The contract ===

if ! wanted "schema"; then
    :
elif ! python_packages tests/schema; then
    skip "schema" "its Python packages cannot be installed here"
else
    with_program "schema" "$(venv_of tests/schema)/bin/python" scripts/schema-check
fi

# === Browser and clients ===

if ! node_is_new_enough; then
    skip "browser" "Node.js 20 or later is missing and cannot be installed here"
    skip "clients: eventsource" "Node.js 20 or later is missing and cannot be installed here"
else
    if ! wanted "browser"; then
        :
    elif ! install chromium chromium fonts-dejavu-core; then
        skip "browser" "chromium is missing and cannot be installed here (no apt-get, or neither root nor sudo)"
    elif ! npm_packages tests/browser; then
        skip "browser" "\`npm ci\` failed in tests/browser"
    else
        with_program "browser" env CHROMIUM="$(command -v chromium)" node tests/browser/run.mjs
    fi
    if ! wanted "clients: eventsource"; then
        :
    elif ! npm_packages tests/clients; then
        skip "clients: eventsource" "\`npm ci\` failed in tests/clients"
    else
        with_program "clients: eventsource" node tests/clients/eventsource.mjs
    fi
fi
if ! wanted "clients: httpx-sse"; then
    :
elif ! python_packages tests/clients; then
    skip "clients: httpx-sse" "its Python packages cannot be installed here"
else
    with_program "clients: httpx-sse" "$(venv_of tests/clients)/bin/python" tests/clients/httpx_sse_client.py
fi

left_behind

# === Results ===

printf '\n=== Time\n'
printf '%s\n' "${timings[@]-}"
printf '%5d s  in all\n' "$SECONDS"
if [[ ${#notes[@]} -gt 0 ]]; then
    printf '\n=== Skipped and failed\n'
    printf '%s\n' "${notes[@]}"
fi
if [[ $CI == true && $skipped -gt 0 ]]; then
    printf '\nCI=true: %d skipped count as failed\n' "$skipped"
    failed=$((failed + skipped))
fi
if [[ $((passed + failed + skipped)) -eq 0 ]]; then
    fail "everything" "no step has a name like \`${WANTED[*]}\`"
fi
printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$((skipped + unable))"
[[ $failed -eq 0 ]]
