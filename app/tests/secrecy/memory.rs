//! The memory of another process, as a thief of the machine would read it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use crate::secrets::Needles;

const CHUNK: usize = 1 << 20;
const PAGE: usize = 4096;
/// Digits of a safety code.
const DIGITS: usize = 6;

/// The memory of a process. The process cannot keep the superuser from it.
pub(crate) struct Memory {
    pid: u64,
    file: File,
}

/// What a search has found.
#[derive(Default)]
pub(crate) struct Scan {
    /// Names of needles.
    pub(crate) found: BTreeSet<String>,
    /// Every row of six digits.
    pub(crate) digits: BTreeSet<Vec<u8>>,
    /// Bytes that were looked at, without empty pages.
    pub(crate) bytes: usize,
}

impl Memory {
    /// # Errors
    /// When the system does not let us.
    pub(crate) fn open(pid: u64) -> io::Result<Self> {
        let file = File::open(format!("/proc/{pid}/mem"))?;
        let it = Self { pid, file };
        let first = it.regions()?.first().cloned().ok_or(io::ErrorKind::NotFound)?;
        it.file.read_at(&mut [0; 16], first.start)?;
        Ok(it)
    }

    /// Looks through everything that can be read.
    pub(crate) fn scan(&self, needles: &Needles) -> Scan {
        let mut scan = Scan::default();
        let overlap = needles.longest().max(DIGITS) - 1;
        for region in self.regions().unwrap() {
            let mut kept: Vec<u8> = Vec::new();
            let mut at = region.start;
            while at < region.end {
                let len = usize::try_from(region.end - at).unwrap().min(CHUNK);
                let chunk = self.read(at, len);
                at += len as u64;
                for page in chunk.chunks(PAGE) {
                    if page == &[0; PAGE][..page.len()] {
                        look(&mut scan, needles, &kept);
                        kept.clear();
                    } else {
                        kept.extend_from_slice(page);
                    }
                }
                look(&mut scan, needles, &kept);
                kept.drain(..kept.len().saturating_sub(overlap));
            }
        }
        scan
    }

    /// What cannot be read is zeros: pages come and go in a process that runs.
    fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        if self.file.read_exact_at(&mut bytes, at).is_err() {
            for (i, page) in bytes.chunks_mut(PAGE).enumerate() {
                if self.file.read_exact_at(page, at + (i * PAGE) as u64).is_err() {
                    page.fill(0);
                }
            }
        }
        bytes
    }

    fn regions(&self) -> io::Result<Vec<Range<u64>>> {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.pid))?;
        let mut regions = Vec::new();
        for line in maps.lines() {
            let mut fields = line.split_whitespace();
            let (Some(range), Some(rights)) = (fields.next(), fields.next()) else { continue };
            let name = fields.nth(3).unwrap_or("");
            let Some((start, end)) = range.split_once('-') else { continue };
            let number = |hex| u64::from_str_radix(hex, 16).unwrap();
            if rights.starts_with('r') && !name.starts_with("[v") {
                regions.push(number(start)..number(end));
            }
        }
        Ok(regions)
    }
}

fn look(scan: &mut Scan, needles: &Needles, bytes: &[u8]) {
    scan.bytes += bytes.len();
    scan.found.extend(needles.find(bytes));
    let mut digits = 0;
    for (i, byte) in bytes.iter().enumerate() {
        digits = if byte.is_ascii_digit() { digits + 1 } else { 0 };
        if digits >= DIGITS {
            scan.digits.insert(bytes[i + 1 - DIGITS..=i].to_vec());
        }
    }
}

/// Whether this process may read everybody's memory.
pub(crate) fn may_read_others() -> bool {
    const CAP_SYS_PTRACE: u32 = 19;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let fields: BTreeMap<&str, &str> = status.lines().filter_map(|l| l.split_once(':')).collect();
    let effective = u64::from_str_radix(fields["CapEff"].trim(), 16).unwrap();
    effective >> CAP_SYS_PTRACE & 1 == 1
}

#[test]
fn the_reader_finds_what_this_process_holds() {
    let secret = crate::secrets::canary();
    let mut needles = Needles::default();
    needles.add_text("there", &secret);
    let scan = Memory::open(std::process::id().into()).unwrap().scan(&needles);
    assert!(scan.found.contains("there") && scan.bytes > CHUNK);
}
