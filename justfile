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

# the whole laboratory: all pairs of NATs, all troubles; writes docs/nat-matrix.md (half an hour)
lab runs="3":
    cargo build --release -p halloo-app -p rendezvous-peer -p halloo-lab
    target/release/lab matrix --runs {{ runs }}
    target/release/lab events
    target/release/lab matrix --only-page --out docs/nat-matrix.md

# real processes on a bad wire, killed thousands of times (an hour); fails when a message is lost,
# comes twice or out of order
storm messages="100000" node-kills="2000" peer-kills="200":
    cargo build --release -p halloo-app -p rendezvous-peer -p halloo-lab
    target/release/lab storm --pairs 13 --messages {{ messages }} --node-kills {{ node-kills }} \
        --peer-kills {{ peer-kills }} --settle 10 --remaps 100 --moves 100

# twenty people for an hour, with troubles: what their memory and their open files do
soak minutes="60":
    cargo build --release -p halloo-app -p rendezvous-peer -p halloo-lab
    target/release/lab soak --minutes {{ minutes }} --samples target/soak.jsonl

# simulated delivery: so many seeds, on disks that lose what was not synced
delivery-seeds seeds="10000":
    HALLOO_SEEDS={{ seeds }} cargo test --release -p halloo --lib simulation::whatever -- --nocapture

# simulated worlds, from a first seed on; a failing seed is printed
sim runs="1000" seed="1":
    cargo run --release -p halloo-sim -- --runs {{ runs }} --seed {{ seed }}

# every order of steps and faults of the delivery of messages, in worlds of all sizes
model *args:
    cargo run --release -p halloo-model -- {{ args }}

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

# the rendezvous peer's Debian package, in target/debian (needs cargo-deb)
deb:
    packaging/deb

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
