//! SQLite for `rusqlite`, with page encryption: [SQLite3 Multiple Ciphers], compiled from source.
//!
//! There is no code here. A crate that uses this one links the C library, and `rusqlite`, built
//! with its feature `in_gecko` ("SQLite is linked by somebody else"), finds it. Databases are plain
//! SQLite until `PRAGMA key` says otherwise.
//!
//! Of its ciphers only ChaCha20-Poly1305 is compiled in: each page of 4096 bytes has a random nonce
//! of 16 bytes and a tag of 16 bytes, in the database, its WAL and its journal. A page that was
//! changed, or that stands where another one stood, is refused.
//!
//! # Examples
//! ```
//! use halloo_sqlite as _;
//! ```
//!
//! [SQLite3 Multiple Ciphers]: https://utelle.github.io/SQLite3MultipleCiphers/
