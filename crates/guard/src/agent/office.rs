//! What the agent's threads share, and the guards that are made ahead of calls.

use std::collections::HashMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use blackstart_core::policy::UnitPattern;
use blackstart_kernel::Tracer;

use super::caller::Caller;
use super::calls::attend;
use super::hearts::Hearts;
use super::take_up::Taken;
use super::wire::Link;
use super::{Event, Post, Resolve, STACK, Tell};
use crate::run::spare::Spare;

/// A caller does not wait for what is made ahead for the next one.
pub(super) const AHEAD: Duration = Duration::from_millis(20);
/// How long what was made ahead may take to be taken down, at the end.
const LAST_PATIENCE: Duration = Duration::from_secs(5);

/// What all threads share.
pub(super) struct Office {
    pub(super) post: Post,
    pub(super) resolve: Box<Resolve>,
    pub(super) tell: Box<Tell>,
    /// How many calls each user has open.
    pub(super) calls: Mutex<HashMap<u32, usize>>,
    /// Guards that were made ahead, each with the thread that holds it.
    pub(super) ahead: Mutex<Vec<SyncSender<Call>>>,
    /// How many are being made, wait, or are being taken down again.
    spare: Mutex<usize>,
    /// That has changed.
    fewer: Condvar,
    /// No more of them are made.
    closing: AtomicBool,
    /// Held while a large order is read.
    pub(super) large: Mutex<()>,
    /// Runs of an earlier agent.
    pub(super) taken: Taken,
    pub(super) stir: Stir,
    /// Which units are guarded by rules.
    pub(super) patterns: Vec<UnitPattern>,
    /// What all guards hear of the host's processes by; none where each has its own.
    pub(super) tracer: Option<Arc<Tracer>>,
    /// What says for them that they live; none where each does.
    pub(super) hearts: Option<Arc<Hearts>>,
}

/// A call, until it is over.
pub(super) struct Call {
    pub(super) link: Link,
    pub(super) caller: Caller,
    pub(super) office: Arc<Office>,
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut calls = locked(&self.office.calls);
        if let Some(count) = calls.get_mut(&self.caller.uid) {
            *count -= 1;
            if *count == 0 {
                calls.remove(&self.caller.uid);
            }
        }
    }
}

impl Office {
    /// With nobody in it.
    pub(super) fn open(
        post: Post,
        resolve: Box<Resolve>,
        tell: Box<Tell>,
        patterns: Vec<UnitPattern>,
        tracer: Option<Arc<Tracer>>,
        hearts: Option<Arc<Hearts>>,
    ) -> Self {
        Self {
            post,
            resolve,
            tell,
            calls: Mutex::default(),
            ahead: Mutex::default(),
            spare: Mutex::default(),
            fewer: Condvar::new(),
            closing: AtomicBool::new(false),
            large: Mutex::default(),
            taken: Taken::default(),
            stir: Stir::start(),
            patterns,
            tracer,
            hearts,
        }
    }

    /// Take down what waits for nobody any more. Runs go on.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        // Whoever waits for a call hears that none will come.
        locked(&self.ahead).clear();
        let spare = locked(&self.spare);
        let left = self
            .fewer
            .wait_timeout_while(spare, LAST_PATIENCE, |left| *left > 0);
        if left.is_ok_and(|(left, _)| *left > 0) {
            tracing::info!("a sweep takes down what was made ahead");
        }
    }
}

/// One guard that was made ahead, or is being made; until it is somebody's, or is no more.
struct Ahead(Arc<Office>);

impl Ahead {
    fn begin(office: &Arc<Office>) -> Option<Self> {
        if office.closing.load(Ordering::Relaxed) {
            return None;
        }
        *locked(&office.spare) += 1;
        Some(Self(Arc::clone(office)))
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        *locked(&self.0.spare) -= 1;
        self.0.fewer.notify_all();
    }
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Make a guard for a call to come, in the thread that will look after it: what the kernel's tables are reached by does not
/// change threads.
pub(super) fn make_ahead(office: &Arc<Office>) {
    let Some(ahead) = Ahead::begin(office) else {
        return;
    };
    let own = Arc::clone(office);
    let started = thread::Builder::new()
        .name("guard".to_owned())
        .stack_size(STACK)
        .spawn(move || {
            let spare = match Spare::make(&own.post.state_dir, own.tracer.as_ref()) {
                Ok(spare) => spare,
                Err(refusal) => return (own.tell)(Event::Warning(refusal.to_string())),
            };
            let (thread, calls) = sync_channel(1);
            {
                let mut waiting = locked(&own.ahead);
                if own.closing.load(Ordering::Relaxed) {
                    drop(thread);
                } else {
                    waiting.push(thread);
                    (own.tell)(Event::Spares(waiting.len()));
                }
            }
            match calls.recv() {
                Ok(call) => {
                    drop((ahead, own));
                    attend(&call, Some(spare));
                }
                Err(_) => spare.discard(),
            }
        });
    if let Err(error) = started {
        (office.tell)(Event::Warning(format!("no guard is made ahead: {error}")));
    }
}

/// Moving a process between cgroups waits until every program and fork that began before has ended, some 10 ms, and for a few
/// more milliseconds then nobody waits. So something is moved to where it is already, as soon as somebody calls: when
/// the command's process comes, that time is over.
pub(super) struct Stir(SyncSender<()>);

impl Stir {
    fn start() -> Self {
        let (wanted, received) = sync_channel(1);
        let started = thread::Builder::new()
            .name("stir".to_owned())
            .spawn(move || {
                let own = crate::cgroup::own_procs();
                let pid = std::process::id().to_string();
                while received.recv().is_ok() {
                    if let Ok(own) = &own
                        && let Err(error) = fs::write(own, &pid)
                    {
                        tracing::debug!(%error, "stir");
                    }
                }
            });
        if let Err(error) = started {
            tracing::debug!(%error, "stir");
        }
        Self(wanted)
    }

    pub(super) fn now(&self) {
        // Asked for already, if there is no room.
        let _ = self.0.try_send(());
    }
}
