//! Units of systemd that a rule of the agent's has guarded, each as by `blackstart attach`, from its start to its end.
//!
//! One thread hears of cgroups that are made (inotify on the slices), and decides; each guard has a thread of its own, with programs
//! that were loaded before. Why so, and what follows from it: docs/decisions/0030-units-by-rule.md.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use blackstart_core::policy::UnitPattern;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, getrlimit, setrlimit};

use super::{AHEAD, Event, Office, STACK, locked};
use crate::cgroup::{Hierarchy, Target, Tree, in_run};
use crate::follow::slices::{Slices, Started, is_slice, unit_of};
use crate::refusal::{Cause, Refusal};
use crate::run::attach::unit;
use crate::run::attach::watch::{Asked, Asker};
use crate::run::spare::Spare;
use crate::state::{RunDir, StateDir};
use crate::{Notice, Request};

/// Units that are guarded at a time.
const UNITS_MOST: usize = 256;
/// A unit that started so often within this time restarts in a loop: from then on one guard goes from each start to the next.
const LOOP: (usize, Duration) = (5, Duration::from_secs(60));
/// How long such a guard waits for the next start.
const LINGER: Duration = Duration::from_secs(30);
/// When a unit is looked at again that is somebody else's, or for which there was no room.
const AGAIN: Duration = Duration::from_secs(2);
/// When one is that could not be guarded.
const AGAIN_REFUSED: Duration = Duration::from_secs(60);
/// How long the first guards may take, before what an earlier agent left on these units is taken off.
const FIRST: Duration = Duration::from_secs(10);
/// How long guards may take to end, with the agent.
const LAST: Duration = Duration::from_secs(20);
/// Units whose names are kept, to tell of each once.
const TOLD_MOST: usize = 4096;

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

    /// Guard them from now on. Once this is back, those that were there are guarded, or cannot be.
    pub(super) fn start(self, office: &Arc<Office>) -> Units {
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
                return Units {
                    shared,
                    watching: None,
                };
            }
        };
        let (first, firsts) = channel();
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
        // Nobody sends a word: each lets go of it. What takes longer goes on beside everything else.
        if was_left(office) {
            let _: Result<(), _> = firsts.recv_timeout(FIRST);
        }
        Units {
            shared,
            watching: watching.ok(),
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

impl Units {
    /// Take the programs off every unit, and write the reports.
    pub(super) fn close(mut self) {
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

/// What is guarded.
#[derive(Default)]
struct Guards {
    /// No more of them.
    closed: bool,
    next: u64,
    all: Vec<Handle>,
    /// When units started lately, by their names.
    starts: HashMap<String, VecDeque<Instant>>,
}

/// A guard, for who decides.
struct Handle {
    number: u64,
    /// Its cgroup, and the kernel's id of that.
    path: PathBuf,
    id: u64,
    /// The run, once it has begun.
    run: Option<String>,
    on: Sender<Target>,
    wake: OwnedFd,
}

impl Guards {
    /// With its handle gone, each guard ends.
    fn close(&mut self) {
        self.closed = true;
        self.all.clear();
    }

    fn guards(&self, id: u64) -> bool {
        self.all.iter().any(|one| one.id == id)
    }

    /// How often a unit has started lately, this time too.
    fn started(&mut self, unit: &str, now: Instant) -> usize {
        let (_, span) = LOOP;
        self.starts.retain(|_, starts| {
            starts.retain(|start| now.duration_since(*start) < span);
            !starts.is_empty()
        });
        let starts = self.starts.entry(unit.to_owned()).or_default();
        starts.push_back(now);
        starts.len()
    }

    fn loops(&self, unit: &str, now: Instant) -> bool {
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
struct Task {
    started: Started,
    rule: usize,
    target: Target,
    since: Option<Instant>,
    line: Line,
    first: Option<Sender<()>>,
}

/// How a guard hears of what it is to do.
struct Line {
    shared: Arc<Shared>,
    number: u64,
    unit: String,
    path: PathBuf,
    on: Receiver<Target>,
    wake: OwnedFd,
}

impl Asker for Line {
    fn fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    fn asked(&mut self) -> Option<Asked> {
        match self.latest() {
            Ok(target) => Some(Asked::GoOn(target)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Asked::End),
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

/// Who hears of units, and decides.
struct Watching {
    shared: Arc<Shared>,
    slices: Slices,
    /// Units that are not guarded and ought to be, and when each is looked at again.
    waiting: HashMap<PathBuf, (Started, Instant)>,
    /// What was said once.
    told: BTreeSet<String>,
}

/// Why a unit that is meant is left alone.
enum Left {
    /// It never is.
    Never(String),
    /// It is for now.
    Now(String),
}

impl Watching {
    fn until_end(&mut self, there: Vec<Started>, first: Sender<()>, stirred: &OwnedFd) {
        for one in there {
            self.consider(one, None, Some(&first));
        }
        drop(first);
        loop {
            let next = self.waiting.values().map(|(_, at)| *at).min();
            let timeout = next.map(|at| at.saturating_duration_since(Instant::now()));
            // Rounded up: a timeout of zero would spin until the moment has come.
            let timeout = timeout.map(|left| left.max(Duration::from_millis(1)));
            let timeout = timeout.and_then(|left| Timespec::try_from(left).ok());
            let slices = self.slices.fd();
            let mut fds = [
                PollFd::new(&slices, PollFlags::IN),
                PollFd::new(stirred, PollFlags::IN),
            ];
            if poll(&mut fds, timeout.as_ref()).is_err() {
                continue;
            }
            if fds[1].revents().contains(PollFlags::HUP) {
                return locked(&self.shared.guards).close();
            }
            if fds[1].revents().contains(PollFlags::IN) {
                let _ = rustix::io::read(stirred, &mut [0; 64]);
            }
            let again = std::mem::take(&mut *locked(&self.shared.again));
            for (one, time) in again {
                self.wait_for(one, time);
            }
            let since = Instant::now();
            let mut started = Vec::new();
            if !self.slices.started(&mut |one| started.push(one)) {
                started.extend(self.look_anew());
            }
            for one in started {
                self.consider(one, Some(since), None);
            }
            let due = self.waiting.extract_if(|_, (_, at)| *at <= since);
            for (_, (one, _)) in due.collect::<Vec<_>>() {
                self.consider(one, None, None);
            }
        }
    }

    /// Some of it could not be told: everything is looked at again.
    fn look_anew(&mut self) -> Vec<Started> {
        let patterns = &self.shared.rules.patterns;
        let anew = Hierarchy::find(Tree::Second).and_then(|tree| look(tree, patterns));
        match anew {
            Ok((slices, there)) => {
                self.slices = slices;
                there
            }
            Err(error) => {
                self.say(&format!(
                    "units may start unseen: their cgroups cannot be watched: {error}"
                ));
                Vec::new()
            }
        }
    }

    /// Once.
    fn say(&mut self, what: &str) {
        if self.told.len() >= TOLD_MOST {
            self.told.clear();
        }
        if self.told.insert(what.to_owned()) {
            (self.shared.office.tell)(Event::Warning(what.to_owned()));
        }
    }

    /// Guard a unit, if that is ours to do.
    fn consider(&mut self, one: Started, since: Option<Instant>, first: Option<&Sender<()>>) {
        let Some(rule) = self.rule(&one.unit) else {
            return;
        };
        let hierarchy = self.slices.hierarchy();
        let at = hierarchy.at(&one.path);
        let Ok(id) = fs::metadata(&at).map(|of| of.ino()) else {
            if since.is_some() {
                self.say(&format!(
                    "{} had started and ended before it could be guarded",
                    one.unit
                ));
            }
            return;
        };
        {
            let guards = locked(&self.shared.guards);
            if guards.guards(id) {
                return;
            }
            if guards.all.len() >= UNITS_MOST {
                drop(guards);
                self.say(&format!(
                    "{} is not guarded for now: {UNITS_MOST} units are, and no more are at a time",
                    one.unit
                ));
                return self.wait_for(one, AGAIN);
            }
        }
        match self.left(&one, id) {
            Some(Left::Never(why)) => {
                return self.say(&format!("{} is not guarded: {why}", one.unit));
            }
            Some(Left::Now(why)) => {
                self.say(&format!("{} is not guarded for now: {why}", one.unit));
                return self.wait_for(one, AGAIN);
            }
            None => {}
        }
        if let Err(why) = self.guard(&one, rule, since, first) {
            self.say(&format!("{} is not guarded for now: {why}", one.unit));
            self.wait_for(one, AGAIN);
        }
    }

    fn wait_for(&mut self, one: Started, time: Duration) {
        let at = Instant::now() + time;
        self.waiting.insert(one.path.clone(), (one, at));
    }

    fn rule(&self, unit: &str) -> Option<usize> {
        let mut patterns = self.shared.rules.patterns.iter();
        patterns.position(|pattern| pattern.matches(unit))
    }

    /// Is it to be left alone?
    fn left(&self, one: &Started, id: u64) -> Option<Left> {
        let own = self.slices.hierarchy().own().unwrap_or_default();
        if own.starts_with(&one.path) {
            return Some(Left::Never(
                "the agent itself is in it, and would judge its own connections".to_owned(),
            ));
        }
        if one.unit.starts_with("user@") {
            return Some(Left::Never(
                "all that its user does is in it, and not one service".to_owned(),
            ));
        }
        if in_run(&one.path) {
            return Some(Left::Never("a run guards it".to_owned()));
        }
        let of_others = StateDir::places(&self.shared.office.post.state_dir);
        let paths = of_others.filter_map(|state| state.unfinished().ok());
        let is_ours = |path: &PathBuf| {
            let guards = locked(&self.shared.guards);
            let name = path.file_name().and_then(|name| name.to_str());
            guards
                .all
                .iter()
                .any(|one| one.run.is_some() && one.run.as_deref() == name)
        };
        let paths = paths
            .flatten()
            .filter(|path| !is_ours(path) && RunDir::is_supervised(path));
        let mut runs = paths.filter_map(|path| RunDir::peek(&path).ok());
        let other = runs.find(|run| run.attached.as_ref().is_some_and(|to| to.id == id))?;
        Some(Left::Now(format!(
            "the run {} is attached to it; it will be once that has ended",
            other.id
        )))
    }

    fn guard(
        &mut self,
        one: &Started,
        rule: usize,
        since: Option<Instant>,
        first: Option<&Sender<()>>,
    ) -> Result<(), String> {
        let hierarchy = Hierarchy::find(Tree::Second).map_err(|error| error.to_string())?;
        let target = Target::of_unit(hierarchy, &one.path, &one.unit);
        let target = target.map_err(|refusal| refusal.to_string())?;
        let (on, hears) = channel();
        let (wake, wakes) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
            .map_err(|error| error.to_string())
            .map(|(reads, writes)| (writes, reads))?;
        let line = {
            let mut guards = locked(&self.shared.guards);
            let now = Instant::now();
            let starts = match since {
                Some(_) => guards.started(&one.unit, now),
                None => 0,
            };
            let (most, span) = LOOP;
            if starts >= most
                && let Some(handle) = guards.all.iter_mut().rev().find(|of| of.path == one.path)
            {
                let id = target.id();
                if handle.on.send(target).is_ok() {
                    handle.id = id;
                    let _ = rustix::io::write(&handle.wake, &[0]);
                    drop(guards);
                    self.say(&format!(
                        "{} restarts in a loop ({most} times within {} s): one run guards all its starts from here on",
                        one.unit,
                        span.as_secs()
                    ));
                    return Ok(());
                }
                return Err("its guard is ending".to_owned());
            }
            guards.next += 1;
            let number = guards.next;
            guards.all.push(Handle {
                number,
                path: one.path.clone(),
                id: target.id(),
                run: None,
                on,
                wake,
            });
            Line {
                shared: Arc::clone(&self.shared),
                number,
                unit: one.unit.clone(),
                path: one.path.clone(),
                on: hears,
                wake: wakes,
            }
        };
        let task = Task {
            started: Started {
                unit: one.unit.clone(),
                path: one.path.clone(),
            },
            rule,
            target,
            since,
            line,
            first: first.cloned(),
        };
        let ahead = locked(&self.shared.ahead).pop();
        let task = match ahead {
            Some(thread) => match thread.send(task) {
                Ok(()) => return Ok(()),
                Err(unsent) => unsent.0,
            },
            None => task,
        };
        let counted = Counted::of(&self.shared);
        let started = thread::Builder::new()
            .name("guard".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                let shared = &counted.0;
                let made = {
                    let _alone = locked(&shared.alone);
                    Spare::make_for(&shared.office.post.state_dir, true)
                };
                see_to(shared, task, made, false);
            });
        started.map(|_| ()).map_err(|error| error.to_string())
    }
}

/// Load programs for a unit to come, in the thread that will look after it.
fn make_ahead(shared: &Arc<Shared>) {
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
            let spare = match Spare::make_for(&shared.office.post.state_dir, true) {
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
fn see_to(shared: &Arc<Shared>, task: Task, made: Result<Spare, Refusal>, refill: bool) {
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
        Ok((run, ended)) => {
            tell(Event::Over {
                run,
                record: ended.record,
                finished: ended.finished,
            });
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
