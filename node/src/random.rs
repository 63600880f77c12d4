//! Numbers that nobody can guess.

/// Fresh bytes from the operating system.
///
/// # Panics
/// When the operating system has none, which no program can work without.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    getrandom::fill(&mut out).expect("the operating system gives random bytes");
    out
}

/// A fresh number.
pub(crate) fn u64() -> u64 {
    u64::from_be_bytes(bytes())
}

/// A factor between 0.5 and 1.5, so that many nodes do not act at the same moment.
pub(crate) fn jitter() -> f64 {
    0.5 + (u64() >> 11) as f64 / (1u64 << 53) as f64
}
