//! Compiles SQLite3 Multiple Ciphers, with one cipher and without what no store uses.

use std::path::PathBuf;

/// What is compiled in and what is left out.
const OPTIONS: &[(&str, Option<&str>)] = &[
    ("SQLITE_CORE", None),
    // A connection is used by one thread at a time, which Rust sees to.
    ("SQLITE_THREADSAFE", Some("2")),
    // Nobody asks how much memory it has: counting it takes a lock at each allocation.
    ("SQLITE_DEFAULT_MEMSTATUS", Some("0")),
    ("SQLITE_DEFAULT_FOREIGN_KEYS", Some("1")),
    ("SQLITE_ENABLE_API_ARMOR", None),
    ("SQLITE_OMIT_LOAD_EXTENSION", None),
    // Only databases and their journals are encrypted: what is temporary stays in memory.
    ("SQLITE_TEMP_STORE", Some("2")),
    // Keys are given as file names' parameters where a copy is made.
    ("SQLITE_USE_URI", Some("1")),
    // ChaCha20-Poly1305 alone.
    ("CODEC_TYPE", Some("CODEC_TYPE_CHACHA20")),
    ("HAVE_CIPHER_CHACHA20", Some("1")),
    ("HAVE_CIPHER_AES_128_CBC", Some("0")),
    ("HAVE_CIPHER_AES_256_CBC", Some("0")),
    ("HAVE_CIPHER_SQLCIPHER", Some("0")),
    ("HAVE_CIPHER_RC4", Some("0")),
    ("HAVE_CIPHER_ASCON128", Some("0")),
    ("HAVE_CIPHER_AEGIS", Some("0")),
    ("SQLITE3MC_OMIT_AES_HARDWARE_SUPPORT", None),
];

/// What the C libraries of Unix have.
const UNIX: &[(&str, Option<&str>)] = &[
    ("HAVE_USLEEP", Some("1")),
    ("HAVE_ISNAN", None),
    ("HAVE_LOCALTIME_R", None),
    ("_POSIX_THREAD_SAFE_FUNCTIONS", None),
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let source = sqlite3mc_src::source_dir();
    let mut build = cc::Build::new();
    build.file(source.join(sqlite3mc_src::SOURCE_FILE)).include(source).warnings(false);
    let unix = std::env::var_os("CARGO_CFG_UNIX").is_some();
    for (name, value) in OPTIONS.iter().chain(UNIX.iter().filter(|_| unix)) {
        build.define(name, *value);
    }
    build.cargo_metadata(false).compile("halloo_sqlite");

    // As a whole: its callers are in another crate, which the linker may have looked at before.
    let out: PathBuf = std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR").into();
    println!("cargo:rustc-link-search=native={}", out.display());
    println!("cargo:rustc-link-lib=static:+whole-archive=halloo_sqlite");
}
