//! Values of settings: sizes, rates and spans of time with their units, and switches.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

/// Why a text is not a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ValueError {
    /// Not a whole number in front.
    #[error("a whole number with a unit is expected, such as {0}")]
    Number(&'static str),
    /// Another unit.
    #[error("the unit is not one of {0}")]
    Unit(&'static str),
    /// Beyond what can be counted.
    #[error("the value is too large")]
    TooLarge,
}

/// A number of bytes: `256MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct ByteSize(pub(super) usize);

const SIZES: [(&str, usize); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl FromStr for ByteSize {
    type Err = ValueError;

    /// Reads a number with `B`, `KiB`, `MiB`, `GiB` or the first letter of these; without a unit
    /// it counts bytes.
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (number, unit) = split(text).ok_or(ValueError::Number("256MiB"))?;
        let short = |name: &str| unit.eq_ignore_ascii_case(&name[..1]);
        let known = SIZES.iter().find(|(name, _)| unit.eq_ignore_ascii_case(name) || short(name));
        let scale = match known {
            Some((_, scale)) => *scale,
            None if unit.is_empty() => 1,
            None => return Err(ValueError::Unit("B, KiB, MiB, GiB")),
        };
        let number = usize::try_from(number).map_err(|_| ValueError::TooLarge)?;
        number.checked_mul(scale).map(Self).ok_or(ValueError::TooLarge)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, scale) = unit_of(self.0 as u64, SIZES.map(|(n, s)| (n, s as u64)));
        write!(f, "{}{name}", self.0 as u64 / scale)
    }
}

/// A span of time: `72h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Span(pub(super) Duration);

const SPANS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl FromStr for Span {
    type Err = ValueError;

    /// Reads a number with `ms`, `s`, `m`, `h` or `d`.
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (number, unit) = split(text).ok_or(ValueError::Number("72h"))?;
        let known = SPANS.iter().find(|(name, _)| *name == unit);
        let (_, scale) = known.ok_or(ValueError::Unit("ms, s, m, h, d"))?;
        let millis = number.checked_mul(*scale).ok_or(ValueError::TooLarge)?;
        Ok(Self(Duration::from_millis(millis)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let (name, scale) = unit_of(millis, SPANS);
        write!(f, "{}{name}", millis / scale)
    }
}

/// A number of bits in a second: `16Mbit`. 0 stands for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct BitRate(u64);

const BIT_RATES: [(&str, u64); 4] =
    [("Gbit", 1_000_000_000), ("Mbit", 1_000_000), ("kbit", 1_000), ("bit", 1)];

impl BitRate {
    /// The rate that lets so many bytes pass in a second.
    pub(super) fn of_bytes(per_second: u32) -> Self {
        Self(u64::from(per_second) * 8)
    }

    /// Whole bytes in a second.
    pub(super) fn bytes(self) -> u32 {
        u32::try_from(self.0 / 8).expect("a rate is read within this")
    }
}

impl FromStr for BitRate {
    type Err = ValueError;

    /// Reads a number with `bit`, `kbit`, `Mbit` or `Gbit`, or 0. What is not 0 is at least a
    /// byte in a second.
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (number, unit) = split(text).ok_or(ValueError::Number("16Mbit"))?;
        let known = BIT_RATES.iter().find(|(name, _)| unit.eq_ignore_ascii_case(name));
        let scale = match known {
            Some((_, scale)) => *scale,
            None if number == 0 && unit.is_empty() => 1,
            None => return Err(ValueError::Unit("bit, kbit, Mbit, Gbit")),
        };
        let bits = number.checked_mul(scale).ok_or(ValueError::TooLarge)?;
        match bits {
            1..8 => Err(ValueError::Number("16Mbit")),
            _ if bits / 8 > u64::from(u32::MAX) => Err(ValueError::TooLarge),
            _ => Ok(Self(bits)),
        }
    }
}

impl fmt::Display for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, scale) = unit_of(self.0, BIT_RATES);
        write!(f, "{}{name}", self.0 / scale)
    }
}

/// `on` or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

/// Whom the peer hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum AccessMode {
    /// Everybody.
    Open,
    /// Those with an invite.
    Invite,
    /// Those on a list.
    AllowList,
}

impl fmt::Display for AccessMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Invite => "invite",
            Self::AllowList => "allow-list",
        })
    }
}

macro_rules! from_string {
    ($($name:ident)+) => {$(
        impl TryFrom<String> for $name {
            type Error = ValueError;

            fn try_from(text: String) -> Result<Self, ValueError> {
                text.parse()
            }
        }
    )+};
}

from_string! { ByteSize Span BitRate }

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim_start()))
}

/// The largest unit in which the value is a whole number. The last one is always 1.
fn unit_of<const N: usize>(value: u64, units: [(&'static str, u64); N]) -> (&'static str, u64) {
    let whole = |&&(_, scale): &&(&str, u64)| value >= scale && value.is_multiple_of(scale);
    units.iter().find(whole).copied().unwrap_or(units[N - 1])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_and_print() {
        for (text, bytes, printed) in [
            ("256MiB", 256 << 20, "256MiB"),
            ("1 gib", 1 << 30, "1GiB"),
            ("1536K", 1536 << 10, "1536KiB"),
            ("1025", 1025, "1025B"),
            ("0", 0, "0B"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, printed));
            assert_eq!(size.to_string().parse::<ByteSize>().unwrap(), size);
        }
        assert!(matches!("MiB".parse::<ByteSize>(), Err(ValueError::Number(_))));
        assert!(matches!("1 mile".parse::<ByteSize>(), Err(ValueError::Unit(_))));
        assert_eq!("99999999999GiB".parse::<ByteSize>(), Err(ValueError::TooLarge));
    }

    #[test]
    fn bit_rates_read_and_print() {
        for (text, bytes, printed) in [
            ("16Mbit", 2_000_000, "16Mbit"),
            ("1500 kbit", 187_500, "1500kbit"),
            ("0", 0, "0bit"),
            ("30gbit", 3_750_000_000, "30Gbit"),
        ] {
            let rate: BitRate = text.parse().unwrap();
            assert_eq!((rate.bytes(), rate.to_string().as_str()), (bytes, printed));
            assert_eq!(rate.to_string().parse::<BitRate>().unwrap(), rate);
            assert_eq!(BitRate::of_bytes(bytes), rate);
        }
        assert!(matches!("16".parse::<BitRate>(), Err(ValueError::Unit(_))));
        assert!("7bit".parse::<BitRate>().is_err(), "it would round to no limit");
        assert_eq!("35Gbit".parse::<BitRate>(), Err(ValueError::TooLarge));
    }

    #[test]
    fn spans_read_and_print() {
        for (text, millis, printed) in
            [("72h", 259_200_000, "3d"), ("90s", 90_000, "90s"), ("0ms", 0, "0ms")]
        {
            let span: Span = text.parse().unwrap();
            assert_eq!((span.0.as_millis(), span.to_string().as_str()), (millis, printed));
        }
        assert!("72".parse::<Span>().is_err() && "-1s".parse::<Span>().is_err());
    }
}
