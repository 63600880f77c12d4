//! Durations as people write them: `100ms`, `2s`, `1.5m`, `1h`, and plain seconds.

use std::time::Duration;

/// The longest duration that an option takes: a week. Longer ones are typing mistakes.
const MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Reads a duration.
///
/// # Errors
/// A sentence for people when the text is not a number with a known unit, or is out of range.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit.trim() {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        unit => return Err(format!("the unit {unit:?} is not one of: us ms s m h d")),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| "write a number and a unit, for example 100ms or 2s".to_owned())?;
    match Duration::try_from_secs_f64(number * scale) {
        Ok(duration) if duration <= MAX => Ok(duration),
        _ => Err("the longest duration is 7d".to_owned()),
    }
}

/// Writes a duration in the unit that fits: `840 µs`, `12.3 ms`, `4.2 s`.
pub(crate) fn human(duration: Duration) -> String {
    let s = duration.as_secs_f64();
    match s {
        _ if s < 1e-3 => format!("{:.0} µs", s * 1e6),
        _ if s < 0.1 => format!("{:.1} ms", s * 1e3),
        _ if s < 1.0 => format!("{:.0} ms", s * 1e3),
        _ if s < 120.0 => format!("{s:.1} s"),
        _ if s < 7200.0 => format!("{:.0} min", s / 60.0),
        _ => format!("{:.0} h", s / 3600.0),
    }
}

/// Milliseconds with three decimals, for data.
pub(crate) fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn people_write_durations_in_many_ways() {
        for (text, ms) in [
            ("100ms", 100.0),
            ("2s", 2000.0),
            ("2", 2000.0),
            ("0.5", 500.0),
            (" 1.5m ", 90_000.0),
            ("1h", 3_600_000.0),
            ("250us", 0.25),
            ("0", 0.0),
        ] {
            assert_eq!(parse(text).unwrap(), Duration::from_secs_f64(ms / 1e3), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_a_hint() {
        for text in ["", "ms", "-1s", "1.2.3s", "8d", "1 fortnight", "1e9", "nan", "inf"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_written_in_the_unit_that_fits() {
        let human = |us| human(Duration::from_micros(us));
        assert_eq!(human(840), "840 µs");
        assert_eq!(human(12_345), "12.3 ms");
        assert_eq!(human(240_000), "240 ms");
        assert_eq!(human(4_200_000), "4.2 s");
        assert_eq!(human(300_000_000), "5 min");
    }
}
