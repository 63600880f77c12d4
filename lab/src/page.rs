//! The page about all that was measured, for people who know nothing of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;

use crate::check::Finding;
use crate::events::{AFTERMATH, Story};
use crate::kind::{Behaviour, Kind};
use crate::matrix::{Data, Entry, median, pairs};
use crate::stream::INTERVAL;
use crate::world::Places;

/// Writes the page in Markdown.
///
/// # Errors
/// Never; formatting into a string does not fail.
pub fn write(
    data: &Data<Entry>,
    stories: &Data<Story>,
    findings: &[Finding],
    facts: &Facts,
) -> Result<String> {
    let mut page = String::new();
    write!(
        page,
        "# Behind every NAT\n\n\
         What Halloo does behind all kinds of NAT, measured with the real programs behind the real \
         NATs of the Linux kernel. This page is written by a program; do not edit it.\n\n"
    )?;
    summary(&mut page, data)?;
    how(&mut page, facts)?;
    kinds(&mut page, findings)?;
    table(&mut page, data, "The direct path", DIRECT, |entry| cell(entry, direct_cell))?;
    table(&mut page, data, "The first message", FIRST, |entry| cell(entry, first_cell))?;
    together(&mut page, data)?;
    troubles(&mut page, stories)?;
    techniques(&mut page, data)?;
    online(&mut page, data)?;
    failures(&mut page, data)?;
    Ok(page)
}

/// What is said about a measurement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The day.
    pub date: String,
    /// The kernel.
    pub kernel: String,
    /// The commands that repeat it.
    pub command: String,
}

const DIRECT: &str = "\
Milliseconds from the moment in which `halloo send` has taken the message until *both* programs \
say that their path is direct, the median of all runs. The number of runs that got there stands \
behind it when it was not all of them. `–` is a pair that never got there and goes on by relay or \
mailbox. The one who writes stands at the left.";

const FIRST: &str = "\
Milliseconds from the same moment until the other person's program prints the message, the median \
and the slowest of all runs. A `d` behind them: the first message travelled directly; `r`: by \
relay; `m`: by mailbox.";

fn summary(page: &mut String, data: &Data<Entry>) -> Result<()> {
    let entries: Vec<&Entry> = data.entries().collect();
    let runs: usize = entries.iter().map(|e| e.runs.len()).sum();
    let delivered: usize = entries.iter().map(|e| e.delivered()).sum();
    let direct = entries.iter().filter(|e| !e.runs.is_empty() && e.direct() == e.runs.len());
    let sometimes = entries.iter().filter(|e| e.direct() > 0 && e.direct() < e.runs.len());
    writeln!(
        page,
        "**{delivered} of {runs} first messages arrived. {} of {} pairs get a direct path every \
         time{}.**\n",
        direct.count(),
        entries.len(),
        match sometimes.count() {
            0 => String::new(),
            some => format!(", {some} more sometimes"),
        }
    )?;
    let missing = pairs().len() - entries.len();
    if missing > 0 {
        writeln!(page, "{missing} pairs are not measured yet.\n")?;
    }
    Ok(())
}

fn how(page: &mut String, facts: &Facts) -> Result<()> {
    writeln!(
        page,
        "## How it is measured\n\n\
         Each person has a machine behind a router, each router a link to the internet, and there \
         is one rendezvous peer: all of them are network namespaces of one Linux machine. The NATs \
         are the kernel's (nftables). The internet is a program that carries IP packets between \
         the sites: 25 ms in each direction on each person's link and nothing on the peer's, so a \
         round trip takes 50 ms to the peer and 100 ms between two people. Nothing is lost on the \
         way. Both homes use the same private addresses, as in life.\n\n\
         The two are contacts already. For each run both programs start afresh, so that nothing \
         is left of earlier paths, and wait a second; then one writes to the other. No message can \
         arrive sooner than after 50 ms, the one-way time between the two; a direct path that both \
         know to work takes 100 ms at least, a round trip.\n\n\
         Homes are in memory: what a disk takes to keep a message is not in these numbers. How \
         fast the machine is hardly matters, because it waits for the links most of the time.\n\n\
         Measured on {}, Linux {}. To repeat it on any Linux machine with nftables:\n\n\
         ```\n{}\n```\n\n\
         `lab pair A B` measures one pair, `lab check` only what the NATs do.\n\n\
         What no such laboratory shows: port blocks that fill up, carriers that give each \
         connection another address, networks that slow UDP down instead of dropping it, radios \
         that sleep, and how common each kind is.\n",
        facts.date, facts.kernel, facts.command
    )?;
    Ok(())
}

fn kinds(page: &mut String, findings: &[Finding]) -> Result<()> {
    writeln!(
        page,
        "## The kinds of NAT\n\n\
         A NAT has two habits ([RFC 4787](https://www.rfc-editor.org/rfc/rfc4787)). *Mapping*: a \
         program behind it sends from one port; the NAT shows the world another address and port. \
         If it is the same for all destinations, mapping is *endpoint-independent*, and what one \
         server sees is true for everybody. If each destination sees another port, it is \
         *address-and-port-dependent* (often called symmetric), and nobody can know beforehand \
         what the other side will see. *Filtering*: who may send in through such a mapping. \
         Everybody (*endpoint-independent*), only addresses that were sent to \
         (*address-dependent*), or only the exact address and port \
         (*address-and-port-dependent*).\n\n\
         The table is not what was meant to be built but what test programs behind and before \
         each NAT saw.\n\n\
         | | kind | what it is | mapping | filtering | ports |\n|---|---|---|---|---|---|"
    )?;
    for (i, kind) in Kind::all().iter().enumerate() {
        let finding = findings.iter().find(|finding| finding.kind == *kind);
        let habits = match finding.map(|finding| finding.behaviour) {
            None => "not measured | |".to_owned(),
            Some(Behaviour::Blocked) => "no UDP | no UDP | ".to_owned(),
            Some(Behaviour::Passes(t)) => {
                format!("{} | {} | {}", t.mapping, t.filtering, t.allocation)
            }
        };
        writeln!(page, "| {} | `{kind}` | {} | {habits} |", i + 1, kind.help())?;
    }
    writeln!(page)?;
    Ok(())
}

fn table(
    page: &mut String,
    data: &Data<Entry>,
    title: &str,
    text: &str,
    cell: impl Fn(Option<&Entry>) -> String,
) -> Result<()> {
    let kinds = Kind::all();
    write!(page, "## {title}\n\n{text}\n\n| |")?;
    for (i, _) in kinds.iter().enumerate() {
        write!(page, " {} |", i + 1)?;
    }
    writeln!(page, "\n|---|{}", "---:|".repeat(kinds.len()))?;
    for (i, a) in kinds.iter().enumerate() {
        write!(page, "| {} `{a}` |", i + 1)?;
        for (j, b) in kinds.iter().enumerate() {
            // Each two were measured once; the lower half would be empty.
            let text = if j < i { String::new() } else { cell(data.get(Places::Apart(*a, *b))) };
            write!(page, " {text} |")?;
        }
        writeln!(page)?;
    }
    writeln!(page)?;
    Ok(())
}

fn cell(entry: Option<&Entry>, show: impl Fn(&Entry) -> String) -> String {
    match entry {
        None => "?".to_owned(),
        Some(entry) if entry.error.is_some() => "fails".to_owned(),
        Some(entry) => show(entry),
    }
}

fn direct_cell(entry: &Entry) -> String {
    let times = entry.times(|run| run.direct_ms);
    let (direct, runs) = (entry.direct(), entry.runs.len());
    match median(&times) {
        None if direct > 0 => "at once".to_owned(),
        None => "–".to_owned(),
        Some(time) if direct == runs => format!("{time:.0}"),
        Some(time) => format!("{time:.0} ({direct}/{runs})"),
    }
}

fn first_cell(entry: &Entry) -> String {
    let times = entry.times(|run| run.first_message_ms);
    let Some(time) = median(&times) else { return "**lost**".to_owned() };
    let worst = times.last().copied().unwrap_or(time);
    let way = entry.runs.iter().find_map(|run| run.first_path.as_deref());
    let way = way.and_then(|way| way.chars().next()).map(String::from).unwrap_or_default();
    let lost = entry.runs.len() - entry.delivered();
    let lost = if lost > 0 { format!(" **{lost} lost**") } else { String::new() };
    format!("{time:.0}/{worst:.0}{way}{lost}")
}

fn together(page: &mut String, data: &Data<Entry>) -> Result<()> {
    writeln!(
        page,
        "## Neighbours\n\n\
         | | direct, ms | first message, median/slowest ms |\n|---|---:|---:|"
    )?;
    let rows = [
        (Places::SameLan, "both in one home network, behind one router"),
        (Places::SameCarrier, "two homes behind one carrier's NAT, which knows no hairpinning"),
    ];
    for (places, what) in rows {
        let entry = data.get(places);
        let (direct, first) = (cell(entry, direct_cell), cell(entry, first_cell));
        writeln!(page, "| {what} | {direct} | {first} |")?;
    }
    writeln!(page)?;
    Ok(())
}

fn troubles(page: &mut String, stories: &Data<Story>) -> Result<()> {
    if stories.entries().next().is_none() {
        return Ok(());
    }
    writeln!(
        page,
        "## When something goes wrong\n\n\
         Both write to each other, a message every {} ms, for some seconds before the trouble and \
         {} s after it began. The silence is the longest time between one arrival and the next that \
         either side sees. Lost is what has not arrived a minute after the last was written; what is \
         late is not lost. It happens at the side named first, if it happens to one.\n\n\
         | pair | what happens | longest silence, s | lost | twice or out of order | before → after \
         | direct again, s |\n|---|---|---:|---:|---:|---|---:|",
        INTERVAL.as_millis(),
        AFTERMATH.as_secs()
    )?;
    for story in stories.entries() {
        let way = |way: &Option<String>| way.clone().unwrap_or_else(|| "nothing".to_owned());
        writeln!(
            page,
            "| `{}` | {} | {:.2} | {} of {} | {} | {} → {} | {} |",
            story.pair,
            story.trouble.help(),
            story.silence_s(),
            story.lost(),
            story.sent(),
            story.disorder(),
            way(&story.before),
            way(&story.after),
            story.direct_again_s.map_or("–".to_owned(), |s| format!("{s:.2}")),
        )?;
    }
    writeln!(page)?;
    Ok(())
}

fn techniques(page: &mut String, data: &Data<Entry>) -> Result<()> {
    let mut counts: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for entry in data.entries() {
        if let Some(technique) = entry.technique() {
            counts.entry(technique).or_default().push(&entry.pair);
        }
    }
    if counts.is_empty() {
        return Ok(());
    }
    writeln!(page, "## How direct paths were found\n\n| technique | pairs | for example |")?;
    writeln!(page, "|---|---:|---|")?;
    for (technique, pairs) in counts {
        let example = pairs.first().copied().unwrap_or_default();
        writeln!(page, "| {technique} | {} | `{example}` |", pairs.len())?;
    }
    writeln!(page)?;
    Ok(())
}

fn online(page: &mut String, data: &Data<Entry>) -> Result<()> {
    writeln!(
        page,
        "## Getting online\n\n\
         From the start of the program until its peer has registered it, median and slowest.\n\n\
         | kind | ms |\n|---|---:|"
    )?;
    for kind in Kind::all() {
        let (mut times, mut is_measured) = (Vec::new(), false);
        for (entry, places) in pairs().into_iter().filter_map(|p| Some((data.get(p)?, p))) {
            let Places::Apart(a, b) = places else { continue };
            is_measured |= a == *kind || b == *kind;
            for (i, _) in [a, b].iter().enumerate().filter(|(_, side)| *side == kind) {
                times.extend(entry.times(|run| run.online_ms[i]));
            }
        }
        times.sort_by(f64::total_cmp);
        match median(&times).zip(times.last()) {
            Some((time, worst)) => writeln!(page, "| `{kind}` | {time:.0}/{worst:.0} |")?,
            None if is_measured => writeln!(page, "| `{kind}` | never |")?,
            None => writeln!(page, "| `{kind}` | ? |")?,
        }
    }
    writeln!(page)?;
    Ok(())
}

fn failures(page: &mut String, data: &Data<Entry>) -> Result<()> {
    let failed: Vec<&Entry> = data.entries().filter(|entry| entry.error.is_some()).collect();
    if failed.is_empty() {
        return Ok(());
    }
    writeln!(page, "## What fails\n\n| pair | why |\n|---|---|")?;
    for entry in failed {
        let why = entry.error.as_deref().unwrap_or_default();
        writeln!(page, "| `{}` | {why} |", entry.pair)?;
    }
    Ok(())
}
