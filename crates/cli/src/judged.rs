//! Runs of the past, judged anew.

use std::ops::ControlFlow;

use blackstart_core::history::replay::{Replay, Replayed};
use blackstart_core::history::{Ancestry, Micros, Past};
use blackstart_core::policy::Policy;
use blackstart_core::tables::CompileError;
use blackstart_store::{Error, Filter, Store};

/// What is known of the runs themselves.
#[derive(Debug, Default)]
pub(crate) struct Runs {
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

/// Judge these runs by each of the policies, the earliest first: deployments, or what was `attached` to. What a service does is no
/// deployment of it, and a deployment says nothing of that. The error within says why a policy cannot be compiled.
pub(crate) fn judged<const N: usize>(
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
