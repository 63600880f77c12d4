//! What processes use: memory, open files, time of the processor.

use anyhow::{Context, Result};
use serde::Serialize;

/// What a process used at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Sample {
    /// When, in seconds from the beginning.
    pub at_s: f64,
    /// Memory in use, in KiB.
    pub rss_kib: u64,
    /// The part of it that is no file: what the program has asked for. The rest is mostly code, of
    /// which more is read in the first time that it is needed.
    pub anon_kib: u64,
    /// Open files and sockets.
    pub fds: u64,
}

impl Sample {
    /// Looks at a process.
    ///
    /// # Errors
    /// It is gone.
    pub fn of(pid: u32, at_s: f64) -> Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
            .with_context(|| format!("process {pid} is gone"))?;
        let kib = |name: &str| -> Result<u64> {
            let text = status.lines().find_map(|line| line.strip_prefix(name));
            let number = text.and_then(|text| text.trim().strip_suffix(" kB")?.trim().parse().ok());
            number.with_context(|| format!("the kernel tells no {name} of process {pid}"))
        };
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64;
        Ok(Self { at_s, rss_kib: kib("VmRSS:")?, anon_kib: kib("RssAnon:")?, fds })
    }
}

/// How much time of the processor a process has used, with its children that have ended, in
/// seconds; 0 when it is gone.
pub fn cpu_s(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name may hold anything, and ends with the last parenthesis.
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields).split(' ');
    let ticks = fields.skip(UTIME).take(4).filter_map(|field| field.parse::<u64>().ok());
    ticks.sum::<u64>() as f64 / TICKS_PER_S
}

/// How something grows: the line with the least squares of its distances.
#[derive(Debug, Default, Clone, Copy, PartialEq, Serialize)]
pub struct Growth {
    /// The mean.
    pub mean: f64,
    /// In an hour, in percent of the mean.
    pub percent_per_hour: f64,
}

impl Growth {
    /// Of values and their times in seconds.
    pub fn of(points: &[(f64, f64)]) -> Self {
        let n = points.len() as f64;
        if points.len() < 2 {
            return Self { mean: points.first().map_or(0.0, |p| p.1), percent_per_hour: 0.0 };
        }
        let mean = |value: fn(&(f64, f64)) -> f64| points.iter().map(value).sum::<f64>() / n;
        let (x, y) = (mean(|p| p.0), mean(|p| p.1));
        let over: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
        let under: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
        let slope = if under > 0.0 { over / under } else { 0.0 };
        Self { mean: y, percent_per_hour: if y > 0.0 { slope * 3600.0 / y * 100.0 } else { 0.0 } }
    }
}

/// The place of the first of four times behind the name in `/proc/PID/stat`: own and children's.
const UTIME: usize = 11;
/// What Linux counts in, on every machine that has this laboratory.
const TICKS_PER_S: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_through_noise() {
        let points: Vec<(f64, f64)> = (0..100)
            .map(|i| (f64::from(i) * 36.0, 100.0 + f64::from(i) + f64::from(i % 2)))
            .collect();
        let growth = Growth::of(&points);
        assert!((growth.mean - 150.0).abs() < 0.1, "{growth:?}");
        assert!((growth.percent_per_hour - 66.7).abs() < 1.0, "{growth:?}");
        assert_eq!(Growth::of(&[(0.0, 5.0), (9.0, 5.0)]).percent_per_hour, 0.0);
    }

    #[test]
    fn this_process_uses_something() {
        let sample = Sample::of(std::process::id(), 1.0).unwrap();
        assert!(sample.rss_kib > sample.anon_kib && sample.fds >= 3, "{sample:?}");
        assert!(cpu_s(std::process::id()) < 3600.0);
    }
}
