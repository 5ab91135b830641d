//! What a run reached for, row by row: refused first, then what is outside this host, the busiest first.
//!
//! As the summary does it: the report is gone through once to count, with numbers for texts, and once more for
//! what is shown.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use blackstart_core::policy::Rule;
use blackstart_core::report::{Flow, Name, Parts, Verdict};

use super::clock::{Clock, Span, length_text};
use super::grouped;
use crate::summary::destinations::{Tally, What, is_told, outcome_words};
use crate::summary::lineage::{Lineage, Texts};
use crate::summary::{places_of, written_at};

/// No more than this are shown: a browser has to hold each.
const SHOWN: usize = 5_000;
/// Of one row, no more addresses and process chains than this are shown.
const ADDRESSES: usize = 4;
const CHAINS: usize = 3;
/// Of one row, no more processes than this are looked at.
const SUBJECTS: usize = 32;

/// What tells one row from another. The first field is the order in which they are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    class: Class,
    what: What,
    port: u16,
    protocol: u32,
    outcome: u32,
    rule: u32,
}

/// Where a row belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Class {
    Refused,
    Would,
    Outside,
    Local,
}

impl Class {
    fn of(verdict: Verdict, local: bool) -> Self {
        match verdict {
            Verdict::Deny => Self::Refused,
            Verdict::WouldDeny => Self::Would,
            _ if local => Self::Local,
            _ => Self::Outside,
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Would => "would",
            Self::Outside => "outside",
            Self::Local => "local",
        }
    }
}

/// All rows that are shown.
pub(super) struct Destinations {
    rows: Vec<Gathered>,
    left_out: usize,
}

#[derive(Debug)]
struct Gathered {
    class: Class,
    what: String,
    named: bool,
    port: u16,
    protocol: String,
    outcome: String,
    rule: String,
    attempts: u64,
    bytes: u64,
    first: String,
    last: String,
    addresses: BTreeSet<IpAddr>,
    subjects: BTreeSet<Option<u64>>,
    more_subjects: bool,
}

/// One row, in words.
#[derive(Debug)]
pub(super) struct Destination {
    pub(super) class: &'static str,
    pub(super) what: String,
    pub(super) addresses: String,
    pub(super) port: String,
    pub(super) port_number: u16,
    pub(super) protocol: String,
    pub(super) outcome: String,
    pub(super) rule: String,
    /// Where that stands.
    pub(super) place: String,
    pub(super) attempts: u64,
    pub(super) attempts_text: String,
    pub(super) bytes: u64,
    pub(super) bytes_text: String,
    pub(super) first: String,
    pub(super) first_at: i64,
    pub(super) last: String,
    pub(super) last_at: i64,
    pub(super) span: Span,
    pub(super) by: Vec<String>,
    pub(super) more: bool,
}

const LOOKUP: &str = "lookup";

impl Destinations {
    pub(super) fn of(report: &dyn Parts) -> Self {
        let mut texts = Texts::default();
        let told = report.told_by_another();
        let mut tally = Tally(Vec::with_capacity(told.len()));
        let mut contacted = BTreeSet::new();
        for (flow, told) in report.flows().zip(&told) {
            if let Some(name) = &flow.name {
                contacted.insert(texts.number(name));
            }
            if is_told(&flow, *told) {
                tally.0.push((of_flow(&flow, &mut texts), flow.attempts));
            }
        }
        for name in report.names() {
            if is_row(&name, &contacted, &mut texts) {
                tally.0.push((of_name(&name, &mut texts), name.queries));
            }
        }
        let tally = tally.add_up();
        let left_out = tally.0.len().saturating_sub(SHOWN);
        let mut list = tally.0;
        // Refusals before all else, whatever was busier.
        let before = |a: &(Key, u64), b: &(Key, u64)| {
            let text = |key: &Key| key.what.text(&texts).into_owned();
            (a.0.class.cmp(&b.0.class))
                .then_with(|| b.1.cmp(&a.1))
                .then_with(|| text(&a.0).cmp(&text(&b.0)))
                .then_with(|| (a.0.port, a.0.protocol).cmp(&(b.0.port, b.0.protocol)))
        };
        list.sort_by(before);
        list.truncate(SHOWN);
        let places: HashMap<Key, usize> = list
            .iter()
            .enumerate()
            .map(|(at, (key, _))| (*key, at))
            .collect();
        let mut rows: Vec<Gathered> = list
            .iter()
            .map(|(key, attempts)| Gathered {
                class: key.class,
                what: key.what.text(&texts).into_owned(),
                named: matches!(key.what, What::Text(_)),
                port: key.port,
                protocol: texts.get(key.protocol).to_owned(),
                outcome: texts.get(key.outcome).to_owned(),
                rule: texts.get(key.rule).to_owned(),
                attempts: *attempts,
                bytes: 0,
                first: String::new(),
                last: String::new(),
                addresses: BTreeSet::new(),
                subjects: BTreeSet::new(),
                more_subjects: false,
            })
            .collect();
        for (flow, told) in report.flows().zip(&told) {
            if !is_told(&flow, *told) {
                continue;
            }
            if let Some(&at) = places.get(&of_flow(&flow, &mut texts)) {
                let row = &mut rows[at];
                row.addresses.insert(flow.address.to_canonical());
                row.bytes = row.bytes.saturating_add(flow.bytes_sent);
                row.meet(flow.subject, &flow.first_seen, &flow.last_seen);
            }
        }
        for name in report.names() {
            if !is_row(&name, &contacted, &mut texts) {
                continue;
            }
            if let Some(&at) = places.get(&of_name(&name, &mut texts)) {
                let row = &mut rows[at];
                row.addresses.extend(name.addresses.iter().copied());
                row.meet(name.subject, &name.first_seen, &name.last_seen);
            }
        }
        Self { rows, left_out }
    }

    /// How many are shown.
    pub(super) fn shown(&self) -> usize {
        self.rows.len()
    }

    /// How many are not.
    pub(super) fn left_out(&self) -> usize {
        self.left_out
    }

    pub(super) fn rows<'a>(
        &'a self,
        lines: &'a Lineage,
        rules: &'a [Rule],
        clock: Clock,
    ) -> impl Iterator<Item = Destination> + 'a {
        self.rows
            .iter()
            .map(move |row| row.told(lines, rules, clock))
    }

    /// The first of them by time, of which `most` are shown: refusals before all else.
    pub(super) fn timeline(
        &self,
        lines: &Lineage,
        rules: &[Rule],
        clock: Clock,
        most: usize,
    ) -> Vec<Destination> {
        let outside = self.rows.iter().filter(|row| row.class != Class::Local);
        let mut first: Vec<&Gathered> = outside.take(most).collect();
        first.sort_by(|a, b| (&a.first, &a.what).cmp(&(&b.first, &b.what)));
        let told = first.iter().map(|row| row.told(lines, rules, clock));
        told.collect()
    }
}

impl Gathered {
    fn meet(&mut self, subject: Option<u64>, first: &str, last: &str) {
        if self.first.is_empty() || first < self.first.as_str() {
            self.first = first.to_owned();
        }
        if last > self.last.as_str() {
            self.last = last.to_owned();
        }
        if self.subjects.len() < SUBJECTS || self.subjects.contains(&subject) {
            self.subjects.insert(subject);
        } else {
            self.more_subjects = true;
        }
    }

    fn told(&self, lines: &Lineage, rules: &[Rule], clock: Clock) -> Destination {
        let mut by: Vec<String> = Vec::new();
        for subject in &self.subjects {
            let chain = lines.chain(*subject);
            if !by.contains(&chain) {
                by.push(chain);
            }
        }
        let more = by.len() > CHAINS || self.more_subjects;
        by.truncate(CHAINS);
        let mut addresses: Vec<String> = self
            .addresses
            .iter()
            .take(ADDRESSES)
            .map(|address| match address.is_unspecified() {
                true => "a proxy".to_owned(),
                false => address.to_string(),
            })
            .collect();
        if let Some(more) = self.addresses.len().checked_sub(ADDRESSES + 1) {
            addresses.push(format!("and {} more", more + 1));
        }
        let (first_at, last_at) = (clock.after(&self.first), clock.after(&self.last));
        Destination {
            class: self.class.word(),
            what: self.what.clone(),
            addresses: match self.named {
                true => addresses.join(", "),
                // It is its own address.
                false => String::new(),
            },
            port: match self.port {
                0 => String::new(),
                port => port.to_string(),
            },
            port_number: self.port,
            protocol: self.protocol.clone(),
            outcome: self.outcome.clone(),
            place: place(rules, &self.rule).trim().to_owned(),
            rule: self.rule.clone(),
            attempts: self.attempts,
            attempts_text: grouped(self.attempts),
            bytes: self.bytes,
            bytes_text: bytes_text(self.bytes),
            first: length_text(first_at),
            first_at,
            last: length_text(last_at),
            last_at,
            span: clock.span(&self.first, Some(&self.last)),
            by,
            more,
        }
    }
}

fn of_flow(flow: &Flow, texts: &mut Texts) -> Key {
    let address = flow.address.to_canonical();
    let local = address.is_loopback() || address.is_unspecified() && !flow.is_proxied();
    Key {
        class: Class::of(flow.verdict, local),
        what: What::of_flow(flow, texts),
        port: flow.port,
        protocol: texts.number(&flow.protocol),
        outcome: texts.number(&outcome_words(flow)),
        rule: texts.number(&flow.rule),
    }
}

fn of_name(name: &Name, texts: &mut Texts) -> Key {
    let outcome = match name.verdict {
        Verdict::Deny => "denied",
        _ if name.addresses.is_empty() => "no address",
        _ => "answered",
    };
    Key {
        class: Class::of(name.verdict, false),
        what: What::of_name(&name.name, texts),
        port: 0,
        protocol: texts.number(LOOKUP),
        outcome: texts.number(outcome),
        rule: texts.number(&name.rule),
    }
}

/// A lookup is told where nothing else followed from it, or it was refused.
fn is_row(name: &Name, contacted: &BTreeSet<u32>, texts: &mut Texts) -> bool {
    matches!(name.verdict, Verdict::Deny | Verdict::WouldDeny)
        || !contacted.contains(&texts.number(&name.name))
}

/// ` (deploy.yaml:7)`, for a rule that stands in a policy.
pub(super) fn place(rules: &[Rule], text: &str) -> String {
    written_at(&places_of(rules, text))
}

/// `1.4 kB`, in powers of ten.
fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    match bytes {
        0 => String::new(),
        1..1_000 => format!("{bytes} B"),
        _ => {
            let mut amount = bytes as f64 / 1e3;
            let mut unit = 0;
            while amount >= 999.95 && unit + 1 < UNITS.len() {
                amount /= 1e3;
                unit += 1;
            }
            format!("{amount:.1} {}", UNITS[unit])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_three_digits_or_so() {
        let texts = [0, 999, 1_000, 999_949, 999_960, 5_300_000_000];
        assert_eq!(
            texts.map(bytes_text),
            ["", "999 B", "1.0 kB", "999.9 kB", "1.0 MB", "5.3 GB"]
        );
    }
}
