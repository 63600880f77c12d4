//! The six digits, shown and typed.

use std::fmt;

use subtle::ConstantTimeEq;

/// How many codes there are.
pub(super) const CODES: u32 = 1_000_000;

/// The digits of one exchange. They print as `481 907`, and not in debug output, so that they do
/// not end in a log.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SafetyCode(u32);

impl SafetyCode {
    pub(super) fn from_bits(bits: u64) -> Self {
        Self((bits % u64::from(CODES)) as u32)
    }

    pub(super) fn from_number(number: u32) -> Option<Self> {
        (number < CODES).then_some(Self(number))
    }

    /// The code as a number below a million.
    pub fn number(self) -> u32 {
        self.0
    }

    /// Whether these are the digits that were typed.
    pub fn matches(self, typed: &TypedCode) -> bool {
        self.0.ct_eq(&typed.0).into()
    }
}

impl fmt::Display for SafetyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03} {:03}", self.0 / 1000, self.0 % 1000)
    }
}

impl fmt::Debug for SafetyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SafetyCode(…)")
    }
}

/// Digits that a person typed. A type of its own, so that a program cannot compare a code with
/// itself by mistake: it comes from text only.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TypedCode(u32);

impl TypedCode {
    /// Reads exactly six digits; spaces and hyphens between them are forgiven.
    ///
    /// # Errors
    /// [`TypedCodeError`] for anything else: `y` or an empty line is no code.
    pub fn parse(text: &str) -> Result<Self, TypedCodeError> {
        let mut number = 0;
        let mut digits = 0;
        for c in text.chars().filter(|c| !(c.is_whitespace() || *c == '-')) {
            // Seven digits are too many already: nothing can overflow.
            if digits == 6 {
                return Err(TypedCodeError);
            }
            number = number * 10 + c.to_digit(10).ok_or(TypedCodeError)?;
            digits += 1;
        }
        if digits == 6 { Ok(Self(number)) } else { Err(TypedCodeError) }
    }
}

impl fmt::Debug for TypedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TypedCode(…)")
    }
}

/// What was typed is not six digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("type the six digits that the other one reads out")]
pub struct TypedCodeError;
