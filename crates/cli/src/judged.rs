//! Runs of the past, judged anew: what the commands have in common that hold policies against the history.

use std::ops::ControlFlow;
use std::path::Path;

use blackstart_core::history::replay::{Replay, Replayed};
use blackstart_core::history::{Ancestry, Micros, Past};
use blackstart_core::policy::{LeaseLife, Policy};
use blackstart_core::report::Mode;
use blackstart_core::tables::CompileError;
use blackstart_store::{Error, Filter, Store};
use serde::Serialize;

use crate::answers;
use crate::args::{Against, Format};
use crate::finish;
use crate::history::{ago, now};
use crate::layers::Files;
use crate::learn::none;
use crate::output::Output;
use crate::plain::plain;
use crate::resolve::{self, Asked, Problem, Surroundings};
use crate::run::show_all;

/// It is not as it ought to be, or there is nothing to hold it against.
pub(crate) const WRONG: u8 = 1;

/// The policy of a file, as if it said this `mode:`.
pub(crate) fn read(
    file: &Path,
    against: &Against,
    mode: Option<Mode>,
) -> Result<Policy, Vec<Problem>> {
    let around = Surroundings::of_process();
    let mut files = Files::default();
    let mut layers = if against.with_guardrails {
        files.guardrails(&around.guardrails)
    } else {
        Vec::new()
    };
    layers.push(files.layer(file, false));
    let asked = Asked {
        layers,
        catalog: against.catalog.as_deref(),
        mode,
        service: None,
    };
    let effective = resolve::resolved(files, asked, &around)?;
    match resolve::compiled(&effective) {
        Ok(_) => Ok(effective.policy),
        Err(problem) => Err(vec![problem]),
    }
}

pub(crate) fn invalid(
    problems: &[Problem],
    format: Format,
    document: &impl Serialize,
    output: Output,
) -> u8 {
    match format {
        Format::Human => {
            show_all(problems, output);
            WRONG
        }
        Format::Json => finish(output, &answers::printed(document), WRONG),
    }
}

/// The runs that are meant.
pub(crate) fn filter(against: &Against, service: Option<&String>) -> Filter {
    Filter {
        service: against.service.as_ref().or(service).cloned(),
        since: against.since.map(ago),
        before: Some(now()),
        limit: None,
    }
}

/// What the past does not tell of these policies.
pub(crate) fn remarks(policies: &[&Policy]) -> Vec<String> {
    let ends = policies.iter().any(|policy| policy.lease == LeaseLife::Ttl);
    let told = "`lease: ttl` was left out: how long answers lasted is not recorded, and attempts after their end would be refused as well";
    ends.then(|| told.to_owned()).into_iter().collect()
}

/// What is known of the runs themselves.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    /// How many there are.
    looked_at: u64,
    /// How many there are of the other sort, which were left out.
    pub(crate) passed_over: u64,
    /// How many of them may have reached for more than is known.
    pub(crate) incomplete: u64,
    /// When the first began.
    pub(crate) first: Option<Micros>,
    /// When the last began.
    pub(crate) last: Option<Micros>,
    /// Their programs.
    pub(crate) ancestry: Ancestry,
}

/// Judge the runs that are meant by each of the policies, the earliest first. If there are none, or a policy cannot be compiled,
/// that is said; then an exit code comes back.
pub(crate) fn judged<const N: usize>(
    policies: [&Policy; N],
    store: &Store,
    filter: &Filter,
    against: &Against,
    output: Output,
    each: impl FnMut(&Past, [Replayed; N]),
) -> Result<Result<Runs, u8>, Error> {
    let why = match replayed(policies, store, filter, against.attached, each)? {
        Ok(runs) if runs.looked_at > 0 => return Ok(Ok(runs)),
        Ok(runs) => no_runs(store, filter, against, runs.passed_over)?,
        Err(error) => error.to_string(),
    };
    output.error(&plain(&why));
    Ok(Err(WRONG))
}

/// Deployments, or what was `attached` to: what a service does is no deployment of it, and a deployment says nothing of that. The
/// error within says why a policy cannot be compiled.
pub(crate) fn replayed<const N: usize>(
    policies: [&Policy; N],
    store: &Store,
    filter: &Filter,
    attached: bool,
    mut each: impl FnMut(&Past, [Replayed; N]),
) -> Result<Result<Runs, CompileError>, Error> {
    let replays: Result<Vec<Replay<'_>>, _> = policies.into_iter().map(Replay::new).collect();
    let mut replays = match replays {
        Ok(replays) => replays,
        Err(error) => return Ok(Err(error)),
    };
    let (mut runs, mut ancestry) = (Runs::default(), Ancestry::default());
    let mut failed = None;
    store.pasts(filter, &mut ancestry, &mut |past, ancestry| {
        if past.attached != attached {
            runs.passed_over += 1;
            return ControlFlow::Continue(());
        }
        runs.looked_at += 1;
        runs.incomplete += u64::from(!past.lacks.is_empty());
        runs.first.get_or_insert(past.started);
        runs.last = Some(past.started);
        let replayed: Result<Vec<Replayed>, _> = replays
            .iter_mut()
            .map(|replay| replay.of(past, ancestry))
            .collect();
        match replayed.map(<[Replayed; N]>::try_from) {
            // One for each policy.
            Ok(replayed) => replayed.into_iter().for_each(|all| each(past, all)),
            Err(error) => {
                failed = Some(error);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    runs.ancestry = ancestry;
    Ok(failed.map_or(Ok(runs), Err))
}

/// Why there are no runs, of which so many were of the other sort.
fn no_runs(
    store: &Store,
    filter: &Filter,
    against: &Against,
    passed_over: u64,
) -> Result<String, Error> {
    let sort = match against.attached {
        _ if passed_over == 0 => return none(store, filter),
        true => "a run of a deployment; leave out --attached",
        false => "something that was attached to, and no deployment; --attached is about these",
    };
    let of = filter
        .service
        .as_deref()
        .map_or(String::new(), |service| format!(" of {service}"));
    Ok(format!(
        "the history has no such run{of}: what there is is {sort}"
    ))
}
