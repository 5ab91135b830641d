//! The history: every run is taken in when it ends, or by the next command that asks for it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use blackstart_core::history::Micros;
use blackstart_guard::{FILES_KEPT, Finished, finished, forget};
use blackstart_store::{Error, Kind, SetAside, Store};

use crate::FAILED;
use crate::output::Output;
use crate::plain::plain;
use crate::resolve;

/// The end of a run is not to wait: what is not taken in now is taken in later.
const AT_ONCE: Duration = Duration::from_millis(100);
/// Who asks may wait.
const PATIENCE: Duration = Duration::from_secs(10);
/// Files of so many earlier runs are removed at the end of one.
const TIDIED: usize = 10;

/// Something is missing in what is shown.
pub(crate) const PARTIAL: u8 = 1;

/// Take in a run that has ended just now. Nothing that fails here changes how it exits.
pub(crate) fn keep(state: &Path, report: &Path, output: Output) {
    let kept = Store::open(state, AT_ONCE).and_then(|mut opened| {
        if let Some(aside) = &opened.set_aside {
            output.warning(&about(aside));
        }
        opened.store.leave_log()?;
        opened.store.take_in(report)?;
        Ok(opened.store)
    });
    match kept {
        Ok(store) => tidy(state, &store, TIDIED),
        // Somebody else writes: the next command takes it in.
        Err(error) if error.kind() == Kind::Busy => tracing::debug!(%error, "history"),
        Err(error) => output.warning(&plain(&format!(
            "the run is not in the history yet: {error}; its report is {}, from where `blackstart runs` takes it in",
            report.display()
        ))),
    }
}

/// Take in what there is of a run that goes on; its end takes the place of that.
pub(crate) fn keep_so_far(state: &Path, report: &[u8]) -> Result<(), Error> {
    let mut store = Store::open(state, PATIENCE)?.store;
    store.leave_log()?;
    store.take_in_from(report).map(drop)
}

/// Ask the history something, with all runs taken in that are over. `work` prints, and says how to exit.
pub(crate) fn ask(output: Output, work: impl FnOnce(&mut Store, &Path) -> Result<u8, Error>) -> u8 {
    let state = match resolve::state_directory(std::env::var_os("BLACKSTART_STATE").as_deref()) {
        Ok(state) => state,
        Err(message) => {
            output.error(&message);
            return FAILED;
        }
    };
    let (mut store, whole) = match opened(&state, output) {
        Ok(opened) => opened,
        Err(error) => {
            output.error(&plain(&remedied(&error)));
            return FAILED;
        }
    };
    match work(&mut store, &state) {
        Ok(code) if whole => code,
        Ok(code) => code.max(PARTIAL),
        Err(error) if error.kind() == Kind::Foreign => {
            output.error(&plain(&error.to_string()));
            match store.set_aside(&error, PATIENCE) {
                Ok(Some(aside)) => output.warning(&about(&aside)),
                Ok(None) => {}
                Err(error) => output.warning(&plain(&error.to_string())),
            }
            FAILED
        }
        Err(error) => {
            output.error(&plain(&remedied(&error)));
            FAILED
        }
    }
}

/// The history, and whether every run is in it that is over.
fn opened(state: &Path, output: Output) -> Result<(Store, bool), Error> {
    if !state.exists() {
        return Ok((Store::empty()?, true));
    }
    let opened = Store::open(state, PATIENCE)?;
    if let Some(aside) = &opened.set_aside {
        output.warning(&about(aside));
    }
    let mut store = opened.store;
    let whole = match take_in(state, &mut store, output) {
        // It was found out only now that it is damaged.
        Err(error) if error.kind() == Kind::Foreign => {
            if let Some(aside) = store.set_aside(&error, PATIENCE)? {
                output.warning(&about(&aside));
            }
            store = Store::open(state, PATIENCE)?.store;
            take_in(state, &mut store, output)?
        }
        other => other?,
    };
    if store.writable() {
        tidy(state, &store, usize::MAX);
    }
    Ok((store, whole))
}

/// Take in what is not there yet; false if something could not be.
fn take_in(state: &Path, store: &mut Store, output: Output) -> Result<bool, Error> {
    let runs = match finished(state) {
        Ok(runs) => runs,
        Err(error) => {
            output.warning(&plain(&format!(
                "the runs in {} cannot be looked at: {error}",
                state.display()
            )));
            return Ok(false);
        }
    };
    let mut new: Vec<Finished> = Vec::new();
    for run in runs {
        if !store.has(&run.id)? {
            new.push(run);
        }
    }
    if !new.is_empty() && !store.writable() {
        output.warning(&format!(
            "the history cannot be written, and {} of the runs here {} not in it",
            new.len(),
            if new.len() == 1 { "is" } else { "are" }
        ));
        return Ok(false);
    }
    let mut whole = true;
    for (at, run) in new.iter().enumerate() {
        let Err(error) = store.take_in(&run.report) else {
            continue;
        };
        whole = false;
        match error.kind() {
            Kind::Foreign => return Err(error),
            Kind::NoReport => output.warning(&plain(&error.to_string())),
            // What stands in the way of one stands in the way of the others.
            _ => {
                output.warning(&plain(&format!(
                    "{} of the runs here cannot be taken into the history: {error}",
                    new.len() - at
                )));
                break;
            }
        }
    }
    Ok(whole)
}

/// Remove the files of earlier runs that the history has: those of the latest stay, for whoever was told where they are.
fn tidy(state: &Path, store: &Store, most: usize) {
    let runs = finished(state).unwrap_or_default();
    let beyond = runs.len().saturating_sub(FILES_KEPT);
    for run in runs.iter().take(beyond.min(most)) {
        if store.has(&run.id).unwrap_or(false)
            && let Err(error) = forget(run)
        {
            tracing::debug!(%error, run = run.id, "files of an earlier run");
        }
    }
}

/// Remove the files of these runs; what goes wrong is told.
pub(crate) fn forget_files(state: &Path, ids: &BTreeSet<&str>, output: Output) {
    for run in finished(state).unwrap_or_default() {
        if ids.contains(run.id.as_str())
            && let Err(error) = forget(&run)
        {
            output.warning(&plain(&format!(
                "the files of run {} cannot be removed: {error}",
                run.id
            )));
        }
    }
}

fn about(aside: &SetAside) -> String {
    plain(&format!(
        "what was the history is now {}, as it was: {}; a new one takes in the runs whose files are still here",
        aside.to.display(),
        aside.why
    ))
}

fn remedied(error: &Error) -> String {
    let remedy = match error.kind() {
        Kind::Busy => "; try again when it is done",
        Kind::ReadOnly if !rustix::process::getuid().is_root() => {
            "; the state of runs is for root alone, unless BLACKSTART_STATE says otherwise"
        }
        _ => "",
    };
    format!("{error}{remedy}")
}

/// Now, on the wall clock.
pub(crate) fn now() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        Micros::try_from(since.as_micros()).unwrap_or(Micros::MAX)
    })
}

/// The moment so long ago.
pub(crate) fn ago(time: Duration) -> Micros {
    now().saturating_sub(Micros::try_from(time.as_micros()).unwrap_or(Micros::MAX))
}
