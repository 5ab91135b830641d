//! Units of systemd that a rule of the agent's has guarded, each as by `blackstart attach`, from its start to its end.
//!
//! One thread hears of cgroups that are made (inotify on the slices), and decides; each guard has a thread of its own, with programs
//! that were loaded before. Why so, and what follows from it: docs/decisions/0030-units-by-rule.md.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use blackstart_core::policy::UnitPattern;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, getrlimit, setrlimit};

use super::office::{Office, locked};
use super::{Event, STACK};
use crate::Request;
use crate::cgroup::{Hierarchy, Tree};
use crate::follow::slices::{Slices, Started, is_slice, unit_of};
use crate::refusal::{Cause, Refusal};
use crate::run::spare::Spare;
use crate::state::{RunDir, StateDir};
use guards::{Guards, Task, make_ahead};
use watching::Watching;

mod guards;
mod watching;

/// A unit that started so often within this time restarts in a loop: from then on one guard goes from each start to the next.
const LOOP: (usize, Duration) = (5, Duration::from_secs(60));
/// When a unit is looked at again that is somebody else's, or for which there was no room.
const AGAIN: Duration = Duration::from_secs(2);
/// How long the first guards may take, before what an earlier agent left on these units is taken off.
const FIRST: Duration = Duration::from_secs(60);
/// How long guards may take to end, with the agent.
const LAST: Duration = Duration::from_secs(20);

/// The rules: which units, and by what they are judged.
pub struct Rules {
    /// The first one that matches counts.
    pub patterns: Vec<UnitPattern>,
    /// What the rule with this number wants of a unit that starts now.
    pub request: Box<Wanted>,
}

/// See [`Rules`].
pub type Wanted = dyn Fn(usize) -> Result<Request, Vec<String>> + Send + Sync;

/// The rule that has guarded the unit in which this process is. Its run is another cgroup: what the rule's policy says is to hold
/// there as well.
pub(super) fn rule_over(patterns: &[UnitPattern], pid: i32) -> Option<usize> {
    if patterns.is_empty() {
        return None;
    }
    let place = Hierarchy::find(Tree::Second).and_then(|tree| tree.of(&pid.to_string()));
    let place = place.ok()?;
    let mut parts = place.iter().map(|part| part.to_string_lossy());
    // What a user's own manager names as it likes lies further below.
    let unit = parts.find(|part| !is_slice(part))?;
    let unit = unit_of(&unit);
    patterns.iter().position(|pattern| pattern.matches(unit))
}

/// Units that are to be guarded, before anything is.
pub(super) struct Watch {
    rules: Rules,
    slices: Slices,
    /// Those that were there by then.
    there: Vec<Started>,
}

impl Watch {
    /// Hear of every unit from now on; or why that cannot be.
    pub(super) fn begin(rules: Rules) -> Result<Self, Refusal> {
        let failed = |why: &dyn std::fmt::Display, remedy: &str| Refusal {
            cause: Cause::Request,
            what: "units cannot be guarded by --guard".to_owned(),
            why: why.to_string(),
            remedy: remedy.to_owned(),
        };
        // As sd_booted(3) has it.
        if !Path::new("/run/systemd/system").is_dir() {
            let remedy = "leave it out; `blackstart attach` guards any cgroup";
            return Err(failed(&"systemd is not PID 1 here", remedy));
        }
        let hierarchy = Hierarchy::find(Tree::Second)
            .map_err(|error| failed(&error, "mount cgroup2, for example on /sys/fs/cgroup"))?;
        // At the top is who systemd keeps in hierarchies of the first version only.
        if hierarchy.own().is_ok_and(|own| own == Path::new("")) {
            let why = "systemd keeps them in cgroups of the first version only";
            let remedy = "boot with systemd.unified_cgroup_hierarchy=1";
            return Err(failed(&why, remedy));
        }
        // Some hundred for each guard: what a shell gives is enough for eight.
        let mut most = getrlimit(Resource::Nofile);
        most.current = most.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, most) {
            tracing::info!(%error, "the limit on open files stays");
        }
        let (slices, there) = look(hierarchy, &rules.patterns)
            .map_err(|error| failed(&error, "see fs.inotify.max_user_watches"))?;
        Ok(Self {
            rules,
            slices,
            there,
        })
    }

    /// Guard them from now on.
    pub(super) fn start(self, office: &Arc<Office>) -> (Units, First) {
        let Self {
            rules,
            slices,
            there,
        } = self;
        let shared = Arc::new(Shared {
            office: Arc::clone(office),
            rules,
            guards: Mutex::default(),
            ahead: Mutex::default(),
            alone: Mutex::default(),
            again: Mutex::default(),
            wake: Mutex::default(),
            threads: Mutex::default(),
            fewer: Condvar::new(),
        });
        for _ in 0..office.post.spares {
            make_ahead(&shared);
        }
        let no_thread = |error: &dyn std::fmt::Display| {
            (office.tell)(Event::Warning(format!("no unit is guarded: {error}")));
        };
        let stirred = match pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK) {
            Ok((reads, writes)) => {
                *locked(&shared.wake) = Some(writes);
                reads
            }
            Err(error) => {
                no_thread(&error);
                let watching = None;
                return (Units { shared, watching }, First(None));
            }
        };
        let (first, firsts) = channel();
        let left = was_left(office);
        let own = Arc::clone(&shared);
        let watching = thread::Builder::new()
            .name("units".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                let mut watching = Watching {
                    shared: own,
                    slices,
                    waiting: HashMap::new(),
                    told: BTreeSet::new(),
                };
                watching.until_end(there, first, &stirred);
            });
        if let Err(error) = &watching {
            no_thread(error);
        }
        let watching = watching.ok();
        (Units { shared, watching }, First(left.then_some(firsts)))
    }
}

/// The guards of units that were there, if an earlier agent may have left some guarded.
pub(super) struct First(Option<Receiver<()>>);

impl First {
    /// Until each is there, or cannot be.
    pub(super) fn wait(self) {
        // Nobody sends a word: each lets go of it.
        if let Some(all) = self.0 {
            let _: Result<(), _> = all.recv_timeout(FIRST);
        }
    }
}

fn look(hierarchy: Hierarchy, patterns: &[UnitPattern]) -> io::Result<(Slices, Vec<Started>)> {
    let mut there = Vec::new();
    let slices = Slices::watch(hierarchy, patterns, &mut |one| there.push(one))?;
    Ok((slices, there))
}

/// Did somebody attach to something, and has died since?
fn was_left(office: &Office) -> bool {
    unfinished(office).any(|(path, run)| run && !RunDir::is_supervised(&path))
}

/// Runs that are not over, and whether each is attached to something.
fn unfinished(office: &Office) -> impl Iterator<Item = (PathBuf, bool)> {
    let states = StateDir::places(&office.post.state_dir);
    let paths = states.filter_map(|state| state.unfinished().ok()).flatten();
    paths.map(|path| {
        let attached = RunDir::peek(&path).is_ok_and(|run| run.attached.is_some());
        (path, attached)
    })
}

/// What watches and guards units.
pub(super) struct Units {
    shared: Arc<Shared>,
    watching: Option<JoinHandle<()>>,
}

/// What becomes of units that are guarded when the agent ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Parting {
    /// The programs are taken off, and the reports are written.
    #[default]
    LetGo,
    /// The programs stay on: the next agent guards the units anew before it takes them off.
    Leave,
}

impl Units {
    /// Guard none any more.
    pub(super) fn close(mut self, parting: Parting) {
        locked(&self.shared.guards).parting = parting;
        drop(locked(&self.shared.wake).take());
        if let Some(watching) = self.watching.take() {
            let _ = watching.join();
        }
        locked(&self.shared.guards).close();
        locked(&self.shared.ahead).clear();
        let threads = locked(&self.shared.threads);
        let left = self
            .shared
            .fewer
            .wait_timeout_while(threads, LAST, |left| *left > 0);
        if left.is_ok_and(|(left, _)| *left > 0) {
            tracing::info!("a sweep takes off what is still attached");
        }
    }
}

/// What the threads share.
struct Shared {
    office: Arc<Office>,
    rules: Rules,
    guards: Mutex<Guards>,
    /// Programs that were loaded ahead, each with the thread that holds them.
    ahead: Mutex<Vec<SyncSender<Task>>>,
    /// Held while some are loaded for a unit that is there already: one after the other.
    alone: Mutex<()>,
    /// Units that are to be looked at again, and when.
    again: Mutex<Vec<(Started, Duration)>>,
    /// Written to, it wakes the thread that decides; closed, it ends that.
    wake: Mutex<Option<OwnedFd>>,
    /// How many threads there are.
    threads: Mutex<usize>,
    fewer: Condvar,
}

impl Shared {
    /// Programs for a unit to come.
    fn spare(&self) -> Result<Spare, Refusal> {
        let office = &self.office;
        Spare::make_for(&office.post.state_dir, office.tracer.as_ref(), true)
    }

    /// Look at this unit again, if it is there by then.
    fn look_again(&self, one: Started, time: Duration) {
        locked(&self.again).push((one, time));
        if let Some(wake) = &*locked(&self.wake) {
            // Full, it wakes as well.
            let _ = rustix::io::write(wake, &[0]);
        }
    }
}

/// A thread that is waited for at the end.
struct Counted(Arc<Shared>);

impl Counted {
    fn of(shared: &Arc<Shared>) -> Self {
        *locked(&shared.threads) += 1;
        Self(Arc::clone(shared))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        *locked(&self.0.threads) -= 1;
        self.0.fewer.notify_all();
    }
}
