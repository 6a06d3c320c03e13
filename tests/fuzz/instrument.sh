#!/bin/sh
# cargo's RUSTC_WORKSPACE_WRAPPER for the short run: coverage instrumentation for what is fuzzed and nothing else, so that
# every other crate is the one that the tests have built already.
case "${CARGO_CRATE_NAME:-}" in
dns_common | gregor | gregor_fuzz | fuzz_*)
    # shellcheck disable=SC2086 # one word each
    exec "$@" $GREGOR_FUZZ_FLAGS
    ;;
esac
exec "$@"
