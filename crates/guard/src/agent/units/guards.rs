//! Guards of units, each in a thread of its own, and how each hears of what it is to do.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::{AGAIN, Counted, LOOP, Parting, Shared};
use crate::Notice;
use crate::agent::office::{AHEAD, locked};
use crate::agent::{Event, STACK};
use crate::cgroup::{Hierarchy, Target, Tree};
use crate::follow::slices::Started;
use crate::refusal::{Cause, Refusal};
use crate::run::attach::unit;
use crate::run::attach::watch::{Asked, Asker};
use crate::run::spare::Spare;

/// How long such a guard waits for the next start.
const LINGER: Duration = Duration::from_secs(30);
/// When one is that could not be guarded.
const AGAIN_REFUSED: Duration = Duration::from_secs(60);

/// What is guarded.
#[derive(Default)]
pub(super) struct Guards {
    /// No more of them.
    pub(super) closed: bool,
    /// What then becomes of those that are there.
    pub(super) parting: Parting,
    pub(super) next: u64,
    pub(super) all: Vec<Handle>,
    /// When units started lately, by their names.
    pub(super) starts: HashMap<String, VecDeque<Instant>>,
}

/// A guard, for who decides.
pub(super) struct Handle {
    pub(super) number: u64,
    /// Its cgroup, and the kernel's id of that.
    pub(super) path: PathBuf,
    pub(super) id: u64,
    /// The run, once it has begun.
    pub(super) run: Option<String>,
    pub(super) on: Sender<Target>,
    pub(super) wake: OwnedFd,
}

impl Guards {
    /// With its handle gone, each guard ends.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.all.clear();
    }

    pub(super) fn guards(&self, id: u64) -> bool {
        self.all.iter().any(|one| one.id == id)
    }

    /// How often a unit has started lately, this time too.
    pub(super) fn started(&mut self, unit: &str, now: Instant) -> usize {
        let (_, span) = LOOP;
        self.starts.retain(|_, starts| {
            starts.retain(|start| now.duration_since(*start) < span);
            !starts.is_empty()
        });
        let starts = self.starts.entry(unit.to_owned()).or_default();
        starts.push_back(now);
        starts.len()
    }

    pub(super) fn loops(&self, unit: &str, now: Instant) -> bool {
        let (most, span) = LOOP;
        let recent = |starts: &VecDeque<Instant>| {
            let starts = starts.iter();
            starts
                .filter(|start| now.duration_since(**start) < span)
                .count()
        };
        self.starts
            .get(unit)
            .is_some_and(|starts| recent(starts) >= most)
    }
}

/// One unit, for the thread that guards it.
pub(super) struct Task {
    pub(super) started: Started,
    pub(super) rule: usize,
    pub(super) target: Target,
    pub(super) since: Option<Instant>,
    pub(super) line: Line,
    pub(super) first: Option<Sender<()>>,
}

/// How a guard hears of what it is to do.
pub(super) struct Line {
    pub(super) shared: Arc<Shared>,
    pub(super) number: u64,
    pub(super) unit: String,
    pub(super) path: PathBuf,
    pub(super) on: Receiver<Target>,
    pub(super) wake: OwnedFd,
}

impl Asker for Line {
    fn fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    fn asked(&mut self) -> Option<Asked> {
        match self.latest() {
            Ok(target) => Some(Asked::GoOn(target)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(match locked(&self.shared.guards).parting {
                Parting::LetGo => Asked::End,
                Parting::Leave => Asked::Leave,
            }),
        }
    }

    fn another(&mut self) -> Option<Target> {
        if locked(&self.shared.guards).loops(&self.unit, Instant::now())
            && let Ok(target) = self.on.recv_timeout(LINGER)
        {
            return self.latest().ok().or(Some(target));
        }
        // Nothing more is sent here, unless something was just now.
        let mut guards = locked(&self.shared.guards);
        self.latest().ok().or_else(|| {
            guards.all.retain(|one| one.number != self.number);
            None
        })
    }
}

impl Line {
    /// The last one that was sent: those before it are gone again.
    fn latest(&self) -> Result<Target, TryRecvError> {
        // An octet came with each.
        while rustix::io::read(&self.wake, &mut [0; 64]).is_ok_and(|count| count > 0) {}
        let mut found = self.on.try_recv()?;
        while let Ok(later) = self.on.try_recv() {
            found = later;
        }
        Ok(found)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut guards = locked(&self.shared.guards);
        guards.all.retain(|one| one.number != self.number);
        drop(guards);
        // Sent to nobody.
        if self.latest().is_ok() {
            let one = Started {
                unit: self.unit.clone(),
                path: self.path.clone(),
            };
            self.shared.look_again(one, Duration::ZERO);
        }
    }
}

/// Load programs for a unit to come, in the thread that will look after it.
pub(super) fn make_ahead(shared: &Arc<Shared>) {
    if locked(&shared.guards).closed {
        return;
    }
    let counted = Counted::of(shared);
    let started = thread::Builder::new()
        .name("guard".to_owned())
        .stack_size(STACK)
        .spawn(move || {
            let shared = &counted.0;
            let tell = &shared.office.tell;
            let spare = match shared.spare() {
                Ok(spare) => spare,
                Err(refusal) => return tell(Event::Warning(refusal.to_string())),
            };
            let (thread, tasks) = sync_channel(1);
            {
                let mut waiting = locked(&shared.ahead);
                if locked(&shared.guards).closed {
                    drop(thread);
                } else {
                    waiting.push(thread);
                }
            }
            match tasks.recv() {
                Ok(task) => see_to(shared, task, Ok(spare), true),
                Err(_) => spare.discard(),
            }
        });
    if let Err(error) = started {
        let failed = format!("no guard is made ahead: {error}");
        (shared.office.tell)(Event::Warning(failed));
    }
}

/// Guard one unit up to its end.
pub(super) fn see_to(shared: &Arc<Shared>, task: Task, made: Result<Spare, Refusal>, refill: bool) {
    let Task {
        started,
        rule,
        target,
        since,
        mut line,
        first,
    } = task;
    let tell = &shared.office.tell;
    let unit = started.unit.clone();
    let (number, id) = (line.number, target.id());
    let (mut refill, mut first) = (refill, first);
    let outcome = made.and_then(|spare| {
        let request = match (shared.rules.request)(rule) {
            Ok(request) => request,
            Err(wrong) => {
                spare.discard();
                return Err(Refusal {
                    cause: Cause::Request,
                    what: "its policy cannot be used".to_owned(),
                    why: wrong.join("\n"),
                    remedy: String::new(),
                });
            }
        };
        let mut began = |run: &str, processes: usize| {
            let mut guards = locked(&shared.guards);
            if let Some(handle) = guards.all.iter_mut().find(|one| one.number == number) {
                handle.run = Some(run.to_owned());
            }
            drop(guards);
            tell(Event::Attached {
                run: run.to_owned(),
                unit: unit.clone(),
                rule: shared.rules.patterns[rule].as_str().to_owned(),
                processes,
            });
            first = None;
            if std::mem::take(&mut refill) {
                soon(shared);
            }
        };
        let mut notice = |notice: Notice| match notice {
            Notice::Adopted(report) => tell(Event::Adopted(report)),
            // That is told with its run.
            Notice::Attached { .. } => {}
            notice => tell(Event::Told {
                unit: unit.clone(),
                notice,
            }),
        };
        unit::guard(
            &request,
            target,
            spare,
            since,
            unit::Ears {
                asker: &mut line,
                began: &mut began,
                notice: &mut notice,
            },
        )
    });
    drop((line, first));
    if refill {
        soon(shared);
    }
    // Its cgroup may be there, though its guard is not.
    let again = match outcome {
        Ok((run, Some(ended))) => {
            tell(Event::Over {
                run,
                record: ended.record,
                finished: ended.finished,
            });
            AGAIN
        }
        Ok((run, None)) => {
            tell(Event::Left { run, unit });
            AGAIN
        }
        Err(refusal) => {
            let why = match is_there(&started.path, id) {
                true => refusal.to_string(),
                false => "it had ended before programs could be attached to it".to_owned(),
            };
            tell(Event::Unguarded { unit, why });
            AGAIN_REFUSED
        }
    };
    shared.look_again(started, again);
}

/// Is the cgroup there that had this id?
fn is_there(path: &Path, id: u64) -> bool {
    let at = Hierarchy::find(Tree::Second).map(|tree| tree.at(path));
    at.and_then(fs::metadata).is_ok_and(|of| of.ino() == id)
}

/// Make another one ahead, in a moment.
fn soon(shared: &Arc<Shared>) {
    let own = Arc::clone(shared);
    let later = thread::Builder::new()
        .name("ahead".to_owned())
        .spawn(move || {
            thread::sleep(AHEAD);
            make_ahead(&own);
        });
    if let Err(error) = later {
        tracing::warn!(%error, "no guard is made ahead");
    }
}
