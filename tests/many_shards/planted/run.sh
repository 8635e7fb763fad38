#!/bin/sh
# Plants each bug in a copy of the sources and counts the seeds until the simulation of all shards finds it.
#
#   tests/many_shards/planted/run.sh [SEEDS] [NAME...]
#
# Ends with 1 if a bug is not found within so many seeds (1,000), or if a patch no longer applies.
set -u
root=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
seeds=${1:-1000}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- $(cd "$root/tests/many_shards/planted" && ls *.patch | sed 's/\.patch$//')
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$root/target/planted}"
missed=0
for name in "$@"; do
    rm -rf "$copy/tree"
    mkdir "$copy/tree"
    (cd "$root" && git ls-files -z | xargs -0 cp --parents -pt "$copy/tree")
    if ! (cd "$copy/tree" && patch -s -p1 <"$root/tests/many_shards/planted/$name.patch"); then
        echo "$name: the patch does not apply"
        missed=1
        continue
    fi
    (cd "$copy/tree" && cargo test -q --no-default-features --features server --test many_shards --no-run) >"$copy/build" 2>&1 || {
        cat "$copy/build"
        echo "$name: does not build"
        missed=1
        continue
    }
    if (cd "$copy/tree" && TIDEGATE_SEEDS=$seeds cargo test -q --no-default-features --features server --test many_shards every_seed) >"$copy/run" 2>&1; then
        echo "$name: NOT FOUND in $seeds seeds"
        missed=1
    else
        found=$(sed -n 's/^found after \([0-9]*\) seeds.*/\1/p' "$copy/run")
        echo "$name: found after ${found:-?} seeds: $(grep -a -A1 'panicked at' "$copy/run" | sed -n 2p | cut -c1-120)"
    fi
done
exit $missed
