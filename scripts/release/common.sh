# What the scripts of this folder share. Source it; it changes into the repository's folder.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

root=$PWD
# Everything that a release publishes.
artifacts=${ARTIFACTS:-$root/target/artifacts}
tools=$root/target/release-tools
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -1)
# The time of the commit stands for the time of the build, so that the same commit makes the same files.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH
mkdir -p "$artifacts"

step() { printf '\n== %s\n' "$*" >&2; }
die() { printf '%s\n' "$*" >&2; exit 1; }

# Prints the first lines of the script that was called: its help.
help_text() { sed -n '2,/^[^#]/{/^# shellcheck/d;s/^# \{0,1\}//p;}' "$0"; }
case ${1:-} in -h | --help) help_text; exit ;; esac

# build or checks: what packaging/release/NAME.txt lists, in an environment of its own.
python_tools() {
    local venv=$tools/$1
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || python3 -m venv --clear "$venv"
    scripts/retry "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "packaging/release/$1.txt"
    PATH=$venv/bin:$PATH
}

# NAME VERSION: a subcommand of cargo, compiled once.
cargo_tool() {
    local has
    has=$("$tools/bin/$1" "${1#cargo-}" --version 2>/dev/null || "$tools/bin/$1" --version 2>/dev/null || true)
    if [[ $has != *"$2"* ]]; then
        # Without optimisation: it runs for seconds, and compiling takes minutes.
        CARGO_PROFILE_DEV_DEBUG=false CARGO_TARGET_DIR=$tools/target \
            scripts/retry cargo install --debug --locked --quiet --root "$tools" "$1" --version "$2"
        rm -rf "$tools/target"
    fi
    PATH=$tools/bin:$PATH
}

# Prints the target of this machine's compiler: x86_64-unknown-linux-gnu.
host_target() { rustc --version --verbose | sed -n 's/^host: //p'; }

# NAME PACKAGES: makes a small Debian with these packages in $tools/NAME, which is kept; remove it to have today's.
debian_base() {
    local log
    [ ! -d "$tools/$1" ] || return 0
    rm -rf --one-file-system "$tools/$1.part"
    log=$(mktemp)
    debootstrap --variant=minbase --include="$2" bookworm "$tools/$1.part" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" \
        >"$log" 2>&1 || { tail -20 "$log" >&2; die "debootstrap failed"; }
    rm -f "$log" "$tools/$1.part"/var/cache/apt/archives/*.deb
    mv "$tools/$1.part" "$tools/$1"
}

# FOLDER FILE: an archive that is the same whenever and by whomever it is made.
reproducible_tar() {
    local tar=tar
    # What a Mac calls tar knows less.
    ! command -v gtar >/dev/null || tar=gtar
    $tar --create --format=gnu --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
        --mode=u=rwX,go=rX --directory "$(dirname "$1")" "$(basename "$1")" | gzip --no-name --best >"$2"
}
