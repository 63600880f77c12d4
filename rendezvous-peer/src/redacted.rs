//! A wrapper for what must not be printed.

use std::fmt;

/// A value that prints as `[redacted]`, whatever it is: an address, a fingerprint. It may sit in
/// a struct that derives `Debug`, and no log line can show it by accident.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Redacted<T>(pub T);

impl<T> fmt::Debug for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<T> fmt::Display for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_does_not_print() {
        let at = Redacted(std::net::SocketAddr::from(([192, 0, 2, 1], 443)));
        assert_eq!(format!("{at} {at:?} {:?}", Some(at)), "[redacted] [redacted] Some([redacted])");
    }
}
