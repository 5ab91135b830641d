//! Sums over runs, for metrics.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Told;
use crate::history::Micros;
use crate::report::{Guarded, Severity};

/// A label with more values than this would be a burden to whoever collects it: the others are counted as `other`.
const MOST: usize = 1000;

/// What runs came to, by what they deployed (empty where nobody said).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// By service.
    pub services: BTreeMap<String, Sums>,
}

/// What the runs of one service came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sums {
    /// Runs that exited with 0, and of which something was seen.
    pub succeeded: u64,
    /// Runs that exited with 0, unguarded: nothing was seen of what they reached for.
    pub unguarded: u64,
    /// Runs whose command succeeded and that a finding failed.
    pub gated: u64,
    /// All others.
    pub failed: u64,
    /// Attempts that were refused.
    pub refused: u64,
    /// Attempts that would have been.
    pub would_refuse: u64,
    /// Findings by kind.
    pub findings: BTreeMap<String, u64>,
    /// When the last run ended.
    pub last_ended: Micros,
    /// How it exited.
    pub last_exit_code: Option<i32>,
    /// How long it took.
    pub last_seconds: Option<f64>,
    /// Its attempts that have a row, of all.
    pub last_recorded: (u64, u64),
    /// Was it guarded? None in a tally of an earlier version.
    pub last_guarded: Option<Guarded>,
    /// What of it could not be seen: how many kinds.
    pub last_gaps: u64,
    /// Its findings by severity: info, warning, error.
    pub last_findings: [u64; 3],
}

impl Sums {
    /// The share of the last run's attempts that has a row. None of a run of which nothing was seen; not known of one that
    /// was guarded in part and recorded nothing.
    pub fn last_coverage(&self) -> Option<f64> {
        match (self.last_guarded, self.last_recorded) {
            (Some(Guarded::No), _) => Some(0.0),
            (Some(Guarded::Partly), (_, 0)) => None,
            (_, (_, 0)) => Some(1.0),
            (_, (recorded, all)) => Some(recorded as f64 / all as f64),
        }
    }
}

impl Tally {
    /// Of one run.
    pub fn of(told: &Told) -> Self {
        let mut tally = Self::default();
        tally.add(told);
        tally
    }

    /// Take in what other runs came to.
    pub fn merge(&mut self, other: &Self) {
        for (service, sums) in &other.services {
            self.sums_of(service).merge(sums);
        }
    }

    fn sums_of(&mut self, service: &str) -> &mut Sums {
        let known = self.services.contains_key(service) || self.services.len() < MOST;
        let service = if known { service } else { "other" };
        self.services.entry(service.to_owned()).or_default()
    }

    fn add(&mut self, told: &Told) {
        let sums = self.sums_of(told.run.service.as_deref().unwrap_or_default());
        match told.run.exit_code {
            Some(0) if told.run.guarded == Guarded::No => sums.unguarded += 1,
            Some(0) => sums.succeeded += 1,
            Some(120) => sums.gated += 1,
            _ => sums.failed += 1,
        }
        sums.refused += told.run.refused;
        sums.would_refuse += told.run.would_refuse;
        sums.last_ended = told.run.moment();
        sums.last_exit_code = told.run.exit_code;
        sums.last_seconds = told.run.wall_seconds;
        sums.last_recorded = (told.run.recorded, told.run.attempts);
        sums.last_guarded = Some(told.run.guarded);
        sums.last_gaps = told.run.gaps.len() as u64;
        sums.last_findings = [0; 3];
        for finding in &told.findings {
            *sums.findings.entry(finding.kind.clone()).or_default() += 1;
            let place = match finding.severity {
                Severity::Info => 0,
                Severity::Warning => 1,
                Severity::Error => 2,
            };
            sums.last_findings[place] += 1;
        }
    }
}

impl Sums {
    /// Counts are added; of what is about the last run, the later one's holds.
    fn merge(&mut self, other: &Self) {
        let Self {
            succeeded,
            gated,
            failed,
            refused,
            would_refuse,
            findings,
            last_ended,
            last_exit_code,
            last_seconds,
            last_recorded,
            last_gaps,
            last_findings,
        } = other;
        self.succeeded += succeeded;
        self.gated += gated;
        self.failed += failed;
        self.refused += refused;
        self.would_refuse += would_refuse;
        for (kind, count) in findings {
            *self.findings.entry(kind.clone()).or_default() += count;
        }
        if *last_ended >= self.last_ended {
            self.last_ended = *last_ended;
            self.last_exit_code = *last_exit_code;
            self.last_seconds = *last_seconds;
            self.last_recorded = *last_recorded;
            self.last_gaps = *last_gaps;
            self.last_findings = *last_findings;
        }
    }
}
