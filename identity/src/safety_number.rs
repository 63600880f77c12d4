//! The safety number: 60 digits that never change while both keys stay.

use std::fmt;
use std::str::FromStr;

use halloo_wire::Fingerprint;

const CONTEXT: &str = "halloo 2026 safety number v1";
/// Digits that one identity contributes: 99 bits, too many to search for a second key.
const HALF: usize = 30;

/// Sixty digits in twelve groups, the same at both ends. Thirty come from each identity alone.
///
/// They are long enough to be static, so they can be compared in person, printed, or shown as a
/// QR code, at any time and as often as one likes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafetyNumber([u8; 2 * HALF]);

/// The safety number of two identities. The order does not matter.
pub fn safety_number(a: &Fingerprint, b: &Fingerprint) -> SafetyNumber {
    let (a, b) = (half(a), half(b));
    let (first, second) = if a <= b { (a, b) } else { (b, a) };
    let mut digits = [0; 2 * HALF];
    digits[..HALF].copy_from_slice(&first);
    digits[HALF..].copy_from_slice(&second);
    SafetyNumber(digits)
}

impl SafetyNumber {
    /// The digits without spaces: the content of the QR code, which has a dense mode for digits.
    pub fn digits(&self) -> String {
        self.0.iter().map(|&d| char::from(b'0' + d)).collect()
    }
}

impl fmt::Display for SafetyNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.digits();
        for start in (0..digits.len()).step_by(5) {
            if start > 0 {
                f.write_str(" ")?;
            }
            f.write_str(&digits[start..start + 5])?;
        }
        Ok(())
    }
}

impl FromStr for SafetyNumber {
    type Err = SafetyNumberError;

    /// Reads 60 digits; white space and hyphens between them are forgiven.
    fn from_str(text: &str) -> Result<Self, SafetyNumberError> {
        let mut digits = [0; 2 * HALF];
        let mut n = 0;
        for c in text.chars().filter(|c| !(c.is_whitespace() || *c == '-')) {
            let digit = c.to_digit(10).ok_or(SafetyNumberError)?;
            *digits.get_mut(n).ok_or(SafetyNumberError)? = digit as u8;
            n += 1;
        }
        if n == digits.len() { Ok(Self(digits)) } else { Err(SafetyNumberError) }
    }
}

/// What was read is not a safety number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a safety number has 60 digits")]
pub struct SafetyNumberError;

fn half(fingerprint: &Fingerprint) -> [u8; HALF] {
    let mut bytes = [0; HALF];
    blake3::Hasher::new_derive_key(CONTEXT)
        .update(fingerprint.as_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    let mut digits = [0; HALF];
    // Five bytes make five digits; 2^40 is so much larger than 10^5 that each is as likely.
    for (out, group) in digits.chunks_exact_mut(5).zip(bytes.chunks_exact(5)) {
        let mut number = group.iter().fold(0u64, |acc, &b| acc << 8 | u64::from(b)) % 100_000;
        for digit in out.iter_mut().rev() {
            *digit = (number % 10) as u8;
            number /= 10;
        }
    }
    digits
}
