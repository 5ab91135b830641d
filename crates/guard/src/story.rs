//! From what is known of a run to its report.

use std::time::{SystemTime, UNIX_EPOCH};

use blackstart_core::policy::Policy;
use blackstart_core::report::{Account, Ledger, Leftover, LimitFacts, RunFacts, Usage};

use crate::state::RunFile;

/// How a run ended, as far as anyone saw it.
#[derive(Debug, Default)]
pub(crate) struct End {
    pub(crate) ended_ns: Option<i64>,
    pub(crate) usage: Usage,
    /// What the limits did; which there were, and how they were applied, stands in the run's file.
    pub(crate) limits: LimitFacts,
    pub(crate) leftovers: Vec<Leftover>,
    pub(crate) unsupervised_seconds: f64,
}

/// The report.
pub(crate) fn tell(run: &RunFile, policy: Option<&Policy>, record: Ledger, end: End) -> Account {
    let facts = RunFacts {
        id: run.id.clone(),
        service: run.service.clone(),
        owner: None,
        command: run.command.clone(),
        redaction: run.redaction.clone(),
        host: run.host.clone(),
        mode: run.mode,
        policy_source: run.policy.clone(),
        policy,
        started_ns: run.started_ns,
        ended_ns: end.ended_ns,
        exit_code: run.exit_code,
        reloads: run.reloads.clone(),
        break_glass: run.break_glass.clone(),
        drill: run.drill.clone(),
        attached: run.attached.as_ref().map(|to| to.told.clone()),
        followed: run.followed.clone(),
        unfollowed: run.unfollowed.clone(),
        limits: LimitFacts {
            limits: run.limits.clone(),
            ..end.limits
        },
        usage: end.usage,
        kernel_release: run.kernel.release.clone(),
        features: run.kernel.features.clone(),
        guarded: run.guarded,
        closed_families: run.closed_families,
        contained: run.contained,
        gaps: run.gaps.clone(),
        leftovers: end.leftovers,
        unsupervised_seconds: end.unsupervised_seconds,
        kept: run.kept,
        known_addresses: run.known_addresses.clone(),
        own_addresses: run.own_addresses.clone(),
        resolvers: run.resolvers.clone(),
        search: run.search.clone(),
    };
    Account::new(record, &facts)
}

/// A moment as the report counts them.
pub(crate) fn wall_ns(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
    }
}
