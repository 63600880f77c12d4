//! All pairs, and what was measured of them so far.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::events::Story;
use crate::kind::Kind;
use crate::pair::{self, Plan, Run};
use crate::world::Places;

/// A part of all pairs, so that several machines or hours can share the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Which one, from 1.
    pub number: usize,
    /// Of how many.
    pub of: usize,
}

/// What was measured of a pair.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The pair, as on the command line of `lab pair`.
    pub pair: String,
    /// Its runs.
    pub runs: Vec<Run>,
    /// Why there are none: the two did not even become contacts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Something that is measured once and kept.
pub trait Measured: Serialize + for<'de> Deserialize<'de> {
    /// What it is about: a later measurement of the same replaces it.
    fn key(&self) -> String;
}

impl Measured for Entry {
    fn key(&self) -> String {
        self.pair.clone()
    }
}

impl Measured for Story {
    fn key(&self) -> String {
        format!("{} {}", self.pair, self.trouble.name())
    }
}

/// The measurements in a file, one a line.
#[derive(Debug)]
pub struct Data<T> {
    path: PathBuf,
    entries: BTreeMap<String, T>,
}

impl<T: Measured> Data<T> {
    /// Reads a file; one that does not exist has nothing in it.
    ///
    /// # Errors
    /// It is not one of ours.
    pub fn open(path: &Path) -> Result<Self> {
        let mut data = Self { path: path.to_owned(), entries: BTreeMap::new() };
        if !path.exists() {
            return Ok(data);
        }
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        for line in text.lines() {
            let entry: T = serde_json::from_str(line)
                .with_context(|| format!("{} holds other measurements", path.display()))?;
            data.entries.insert(entry.key(), entry);
        }
        Ok(data)
    }

    /// All that is known.
    pub fn entries(&self) -> impl Iterator<Item = &T> {
        self.entries.values()
    }

    /// Adds a measurement, also to the file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(&mut self, entry: T) -> Result<()> {
        let mut line = serde_json::to_string(&entry)?;
        line.push('\n');
        // One write, so that processes with different parts can share a file.
        File::options()
            .create(true)
            .append(true)
            .open(&self.path)
            .and_then(|mut file| file.write_all(line.as_bytes()))
            .with_context(|| format!("cannot write to {}", self.path.display()))?;
        self.entries.insert(entry.key(), entry);
        Ok(())
    }
}

impl Data<Entry> {
    /// What is known of a pair.
    pub fn get(&self, places: Places) -> Option<&Entry> {
        self.entries.get(&places.to_string())
    }
}

/// All pairs of the matrix: each two kinds once, and the two that share something.
pub fn pairs() -> Vec<Places> {
    let kinds = Kind::all();
    let mut pairs = vec![Places::SameLan, Places::SameCarrier];
    for (i, a) in kinds.iter().enumerate() {
        pairs.extend(kinds[i..].iter().map(|b| Places::Apart(*a, *b)));
    }
    pairs
}

/// Measures the pairs of a part that are not in the data yet.
///
/// # Errors
/// The data cannot be written. A pair that cannot be measured is a measurement too.
pub fn measure(
    data: &mut Data<Entry>,
    part: Part,
    plan: &Plan,
    mut tell: impl FnMut(&Entry) -> Result<()>,
) -> Result<()> {
    for (i, places) in pairs().into_iter().enumerate() {
        if i % part.of != part.number - 1 || data.get(places).is_some() {
            continue;
        }
        let pair = places.to_string();
        let entry = match pair::measure(places, plan) {
            Ok(runs) => Entry { pair, runs, error: None },
            Err(e) => Entry { pair, runs: Vec::new(), error: Some(format!("{e:#}")) },
        };
        tell(&entry)?;
        data.add(entry)?;
    }
    Ok(())
}

impl Entry {
    /// The times of all runs, sorted, as `of` picks them.
    pub fn times(&self, of: impl Fn(&Run) -> Option<f64>) -> Vec<f64> {
        let mut times: Vec<f64> = self.runs.iter().filter_map(of).collect();
        times.sort_by(f64::total_cmp);
        times
    }

    /// Runs in which the message arrived.
    pub fn delivered(&self) -> usize {
        self.runs.iter().filter(|run| run.is_delivered()).count()
    }

    /// Runs in which both sides had a direct path.
    pub fn direct(&self) -> usize {
        self.runs.iter().filter(|run| run.is_direct()).count()
    }

    /// How the direct paths were found.
    pub fn technique(&self) -> Option<&str> {
        self.runs.iter().find_map(|run| run.technique.as_deref())
    }
}

/// The middle of sorted times: that of the middle one, or between the two middle ones.
pub fn median(times: &[f64]) -> Option<f64> {
    let low = times.len().checked_sub(1)? / 2;
    Some((times[low] + times[times.len() / 2]) / 2.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_two_kinds_are_a_pair_once() {
        let count = Kind::all().len();
        let names: std::collections::BTreeSet<String> =
            pairs().iter().map(Places::to_string).collect();
        assert_eq!(names.len(), count * (count + 1) / 2 + 2);
    }

    #[test]
    fn the_median_of_an_even_number_is_between_two() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[7.0]), Some(7.0));
        assert_eq!(median(&[1.0, 2.0, 9.0]), Some(2.0));
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), Some(3.0));
    }

    #[test]
    fn what_was_measured_is_found_again() {
        let path = std::env::temp_dir().join(format!("halloo-lab-{}.jsonl", std::process::id()));
        let run = Run { first_message_ms: Some(61.0), ..Run::default() };
        let entry = Entry { pair: Places::SameLan.to_string(), runs: vec![run], error: None };
        Data::open(&path).unwrap().add(entry.clone()).unwrap();
        let again: Data<Entry> = Data::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(again.get(Places::SameLan), Some(&entry));
        assert_eq!(again.get(Places::SameCarrier), None);
    }
}
