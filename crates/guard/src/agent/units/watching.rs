//! The thread that hears of units, and decides which is guarded.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use super::guards::{Handle, Line, Task, see_to};
use super::{AGAIN, Counted, LOOP, Shared, look};
use crate::agent::office::locked;
use crate::agent::{Event, STACK};
use crate::cgroup::{Hierarchy, Target, Tree, in_run};
use crate::follow::slices::{Slices, Started};
use crate::state::{RunDir, StateDir};

/// Units that are guarded at a time.
const UNITS_MOST: usize = 256;
/// Units whose names are kept, to tell of each once.
const TOLD_MOST: usize = 4096;

/// Who hears of units, and decides.
pub(super) struct Watching {
    pub(super) shared: Arc<Shared>,
    pub(super) slices: Slices,
    /// Units that are not guarded and ought to be, and when each is looked at again.
    pub(super) waiting: HashMap<PathBuf, (Started, Instant)>,
    /// What was said once.
    pub(super) told: BTreeSet<String>,
}

/// Why a unit that is meant is left alone.
enum Left {
    /// It never is.
    Never(String),
    /// It is for now.
    Now(String),
}

impl Watching {
    pub(super) fn until_end(&mut self, there: Vec<Started>, first: Sender<()>, stirred: &OwnedFd) {
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
                    shared.spare()
                };
                see_to(shared, task, made, false);
            });
        started.map(|_| ()).map_err(|error| error.to_string())
    }
}
