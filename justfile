# `just` lists the recipes. Each is one ordinary command; none is needed to build.

_:
    @just --list --unsorted

# everything that CI runs; name steps to run only these
check *steps:
    .ci/run {{ steps }}

# all tests, and every fuzz corpus
test *args:
    cargo test --workspace {{ args }}

# the story of two people and a peer
demo:
    cargo run --release -- demo

# formats the code
fmt:
    cargo fmt --all
    cd fuzz && cargo fmt
    cd bench && cargo fmt

# clippy as CI runs it
lint:
    cargo clippy --workspace --all-targets -- -D warnings

# the library's pages, with private items
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --lib --no-deps --document-private-items

# fuzzes each target, or those named, for some seconds
fuzz seconds="5" *targets:
    fuzz/run {{ seconds }} {{ targets }}

# writes the seeds of the fuzz corpora again
seeds:
    cargo run -p halloo-fuzz-targets --example seed_corpus

# brings fuzz/Cargo.lock in line with Cargo.lock
fuzz-lock:
    cp Cargo.lock fuzz/Cargo.lock
    cd fuzz && cargo metadata --format-version 1 >/dev/null
