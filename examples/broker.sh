# Shared by the examples: a broker of their own on free ports, its data in a folder that goes away at the end.
# Sourced; gives `ottla` (the command), start_broker, kill_broker, OTTLA_BOOTSTRAP and $scratch.

# The same order and the same numbers everywhere.
export LC_ALL=C

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
: "${OTTLA:=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/ottla-target}/release/ottla}"
if [[ ! -x $OTTLA ]]; then
    echo "building the broker; the first time takes a while" >&2
    (cd "$root" && scripts/setup build && CARGO_TARGET_DIR=$(dirname "$(dirname "$OTTLA")") cargo build --release --locked -p ottla) >&2
fi
ottla() { "$OTTLA" "$@"; }

scratch=$(mktemp -d)
broker=
listener=PLAINTEXT://127.0.0.1:0

start_broker() {
    : >"$scratch/banner"
    "$OTTLA" serve --set "listeners=$listener" --set metrics.listener= --set "log.dirs=$scratch/data" \
        >"$scratch/banner" 2>>"$scratch/log" &
    broker=$!
    until grep -q '^try:' "$scratch/banner"; do
        kill -0 "$broker" 2>/dev/null || { cat "$scratch/log" >&2; exit 1; }
        sleep 0.05
    done
    OTTLA_BOOTSTRAP=$(sed -n 's/^listening on PLAINTEXT //p' "$scratch/banner")
    export OTTLA_BOOTSTRAP
    # A second start takes the same port.
    listener=PLAINTEXT://$OTTLA_BOOTSTRAP
}

kill_broker() {
    kill -9 "$broker"
    wait "$broker" 2>/dev/null || true
}

clean_up() {
    # shellcheck disable=SC2046 # one word a process
    kill $(jobs -p) 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$scratch"
}
trap clean_up EXIT
