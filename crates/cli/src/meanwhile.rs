//! What is told of a run while it goes on: a guard may last for months.
//!
//! A thread starts a process of ours now and then (the agent has one for all its guards), which reads what the run keeps of
//! itself, tells what is new of that, and takes it into the history. The loop that guards has no part in it.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use blackstart_core::report::Parts as _;
use serde::{Deserialize, Serialize};

use crate::FAILED;
use crate::history;
use crate::layers::Files;
use crate::notify::{self, Inherits, Telling, Typed};
use crate::output::Output;
use crate::resolve::{self, Order};

/// How often the history has what is new of it.
pub(crate) const HISTORY: Duration = Duration::from_secs(3600);
/// A record that takes long to go through is gone through the less often.
pub(crate) const SHARE: u32 = 20;
/// At the end, how long one that is at work is waited for.
const LAST: Duration = Duration::from_secs(1);
pub(crate) const STACK: usize = 128 << 10;

/// What the process is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Orders {
    /// Of the run.
    pub(crate) dir: PathBuf,
    pub(crate) targets: Vec<Typed>,
    /// Who owns what it is about.
    pub(crate) owner: Option<String>,
    /// Where that stands, for whoever does not know it.
    pub(crate) catalog: Option<PathBuf>,
    /// It is the history's turn.
    pub(crate) history: bool,
}

#[derive(Debug, Default)]
struct State {
    over: bool,
    at_work: bool,
}

/// Whoever sees to it; until it is dropped.
#[derive(Debug)]
pub(crate) struct Meanwhile(Arc<(Mutex<State>, Condvar)>);

impl Meanwhile {
    /// From now on, tell of the run that has its checkpoints in `dir`.
    pub(crate) fn begin(order: &Order, dir: PathBuf) -> Self {
        let shared = Arc::new((Mutex::new(State::default()), Condvar::new()));
        let orders = Orders {
            history: false,
            targets: order.telling.typed().to_vec(),
            owner: order.owner(),
            catalog: None,
            dir,
        };
        let (state, every) = (order.state.clone(), order.telling.every());
        let theirs = Arc::clone(&shared);
        let started = thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || see_to_it(&theirs, orders, &state, every));
        if let Err(error) = started {
            tracing::debug!(%error, "nothing is told until the end");
        }
        Self(shared)
    }
}

impl Drop for Meanwhile {
    fn drop(&mut self) {
        let (state, changed) = &*self.0;
        let mut state = locked(state);
        state.over = true;
        changed.notify_all();
        // What is told at the end is not to meet it at the same places.
        let _late = changed.wait_timeout_while(state, LAST, |state| state.at_work);
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn see_to_it(
    shared: &(Mutex<State>, Condvar),
    mut orders: Orders,
    state_dir: &Path,
    every: Duration,
) {
    let (state, changed) = shared;
    let mut taken_in: Option<Instant> = None;
    let mut pause = every;
    loop {
        let waited = changed
            .wait_timeout_while(locked(state), pause, |state| !state.over)
            .unwrap_or_else(PoisonError::into_inner);
        let mut now = waited.0;
        if now.over {
            return;
        }
        orders.history = taken_in.is_none_or(|at| at.elapsed() >= HISTORY);
        if orders.targets.is_empty() && !orders.history {
            continue;
        }
        now.at_work = true;
        drop(now);
        let began = Instant::now();
        match carried_out(&orders, state_dir) {
            Ok(true) if orders.history => taken_in = Some(began),
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "telling of a run that goes on"),
        }
        pause = every.max(began.elapsed() * SHARE);
        locked(state).at_work = false;
        changed.notify_all();
    }
}

/// By a process of its own. Did it do all of it?
pub(crate) fn carried_out(orders: &Orders, state: &Path) -> io::Result<bool> {
    let mut process = notify::ourselves("meanwhile", Some(state), Inherits::Nothing)?
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    if let Some(mut to) = process.stdin.take() {
        to.write_all(&serde_json::to_vec(orders)?)?;
    }
    Ok(process.wait()?.success())
}

/// `notify meanwhile`: what a run's own process starts.
pub(crate) fn tell(output: Output) -> u8 {
    // No terminal ends it.
    let _leads_one = rustix::process::setsid();
    let done = resolve::state_directory(std::env::var_os("BLACKSTART_STATE").as_deref())
        .and_then(|state| told(&state, output));
    match done {
        Ok(()) => 0,
        Err(why) => {
            output.error(&why);
            FAILED
        }
    }
}

fn told(state: &Path, output: Output) -> Result<(), String> {
    let orders: Orders = serde_json::from_reader(io::stdin()).map_err(|error| error.to_string())?;
    let mut report = blackstart_guard::meanwhile(&orders.dir, orders.owner.clone())
        .map_err(|error| format!("{}: {error}", orders.dir.display()))?
        .ok_or("it is over, or nothing is known of it yet")?;
    let service = report.run().service.clone();
    if let (None, Some(service), Some(path)) = (&orders.owner, service, &orders.catalog) {
        let catalog = Files::default().catalog(path).catalog;
        let found = catalog.find(&service);
        report.owned_by(found.and_then(|id| catalog.service(id).owner.clone()));
    }
    Telling::again(orders.targets).tell(&report, state, output);
    notify::send_what_is_due(state);
    // One that keeps its state elsewhere goes into no history.
    let is_here = || {
        Some(
            fs::canonicalize(state).ok()?
                == fs::canonicalize(orders.dir.parent()?.parent()?).ok()?,
        )
    };
    if orders.history && is_here() == Some(true) {
        let text = serde_json::to_vec(&report).map_err(|error| error.to_string())?;
        history::keep_so_far(state, &text).map_err(|error| error.to_string())?;
    }
    Ok(())
}
