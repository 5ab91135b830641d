//! Runs that an earlier agent has left: guarded by what is pinned, and looked after again from here on.
//!
//! Verdicts have gone on meanwhile. Where the run's programs can be taken over it is supervised again (`resumed`). What is left
//! to do at its end is what a sweep does, only that whoever waits for the report hears of it, and says how the command ended,
//! which nobody else knows.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use blackstart_core::agent::End;
use blackstart_core::report::Report;
use rustix::pipe::{PipeFlags, pipe_with};

use super::Event;
use super::office::{Office, locked};
use super::resumed::Resumed;
use super::units::First;
use crate::AtEnd;
use crate::agent::caller::Caller;
use crate::agent::reply::Reply;
use crate::agent::wire::Link;
use crate::cgroup::{Found, RunCgroup, is_in_run};
use crate::orphan::{Heir, sweep_adopted, sweep_by};
use crate::refusal::{Cause, Refusal};
use crate::run::hosted::hand_over;
use crate::state::{RunDir, RunFile, StateDir};

/// How often it is looked whether somebody is left in a run.
const LOOK: Duration = Duration::from_secs(1);
/// How long a run that is empty waits for somebody to say how its command ended.
pub(super) const WORD: Duration = Duration::from_secs(3);
/// How long whoever asks for a report is let wait for it.
const REPORT: Duration = Duration::from_secs(30);
/// How often that is looked for.
const STEP: Duration = Duration::from_millis(10);
/// How long killed leftovers may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Runs that are looked after, and how who does so is spoken to.
#[derive(Default)]
pub(super) struct Taken(Mutex<HashMap<String, Mouth>>);

/// What the caller of such a run says.
pub(super) enum Said {
    /// Its command has ended.
    Ended(End),
    /// It wants to hear what happens.
    Listens(Link),
}

/// To whoever looks after a run.
struct Mouth {
    said: Sender<Said>,
    wake: OwnedFd,
}

impl Mouth {
    fn say(&self, what: Said) {
        // Over meanwhile, if nobody hears it.
        if self.said.send(what).is_ok() {
            let _ = rustix::io::write(&self.wake, &[0]);
        }
    }
}

/// How a run's caller is heard.
pub(super) struct Hearing {
    said: Receiver<Said>,
    wakes: OwnedFd,
}

impl Hearing {
    fn new() -> io::Result<(Mouth, Self)> {
        let (told, said) = channel();
        let (wakes, wake) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok((Mouth { said: told, wake }, Self { said, wakes }))
    }

    /// Readable when something was said.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.wakes.as_fd()
    }

    /// What that is.
    pub(super) fn next(&self) -> Option<Said> {
        let _ = rustix::io::read(&self.wakes, &mut [0; 64]);
        self.said.try_recv().ok()
    }
}

/// Look after runs that somebody may still say something of. They come first: a sweep would end them without.
pub(super) fn of_callers(office: &Arc<Office>) {
    for state in StateDir::places(&office.post.state_dir) {
        for path in state.unfinished().unwrap_or_default() {
            // Of other supervisors' runs the next command takes care.
            let Ok(run) = RunDir::peek(&path) else {
                continue;
            };
            if run.caller.is_some() && !run.kept {
                one(office, &state, path, run.id);
            }
        }
    }
}

/// The rest, once the first guards are there that make up for what is taken off here.
pub(super) fn rest_after(office: &Arc<Office>, first: First) {
    let own = Arc::clone(office);
    let started = thread::Builder::new()
        .name("sweep".to_owned())
        .spawn(move || {
            first.wait();
            rest(&own);
        });
    if let Err(error) = started {
        tracing::warn!(%error, "the next command sweeps");
    }
}

/// Everything else that was left: what is over is adopted, and what was only attached to is taken off.
pub(super) fn rest(office: &Office) {
    match sweep_by(Heir::Agent, &office.post.state_dir) {
        Ok(swept) => {
            for report in swept.adopted {
                (office.tell)(Event::Adopted(report));
            }
            for failed in swept.failed {
                let run = failed.path.display();
                (office.tell)(Event::Warning(format!(
                    "cannot clean up after the run in {run}: {}",
                    failed.why
                )));
            }
        }
        Err(error) => (office.tell)(Event::Warning(format!(
            "runs without a supervisor cannot be looked for: {error}"
        ))),
    }
}

/// Look after one run, if nobody does.
fn one(office: &Arc<Office>, state: &StateDir, path: PathBuf, id: String) {
    let Ok(Some(mut dir)) = RunDir::adopt(&path) else {
        return;
    };
    let (mouth, hears) = match Hearing::new() {
        Ok(both) => both,
        Err(error) => {
            return (office.tell)(Event::Warning(format!("a run cannot be taken up: {error}")));
        }
    };
    locked(&office.taken.0).insert(id.clone(), mouth);
    (office.tell)(Event::TakenUp { run: id.clone() });
    let (own, state) = (Arc::clone(office), state.clone());
    let started = thread::Builder::new()
        .name("taken".to_owned())
        .spawn(move || {
            let outcome = dir.read_run().and_then(|mut run| {
                let ended = match Resumed::of(&mut dir, &mut run) {
                    Ok(resumed) => resumed.until_over(&dir, &mut run, &hears),
                    Err(why) => {
                        tracing::info!(why, id, "guarded, and not supervised");
                        until_over(&run, &hears)?
                    }
                };
                finish(&state, dir, run, ended)
            });
            locked(&own.taken.0).remove(&id);
            match outcome {
                Ok(Some(report)) => (own.tell)(Event::Adopted(report)),
                Ok(None) => {}
                Err(error) => (own.tell)(Event::Warning(format!(
                    "the run {id} cannot be ended: {error}"
                ))),
            }
        });
    if let Err(error) = started {
        (office.tell)(Event::Warning(format!("a run has no thread: {error}")));
    }
}

/// Until somebody says how the command ended, or nobody is left.
fn until_over(run: &RunFile, hears: &Hearing) -> io::Result<Option<End>> {
    let mut empty_since = None;
    loop {
        let lives = match &run.cgroup {
            Some(place) => match RunCgroup::find(place)? {
                Found::Here(cgroup) => cgroup.populated()?,
                Found::Gone => false,
                Found::Unknown(why) => return Err(io::Error::other(why)),
            },
            None => false,
        };
        let since = match (lives, empty_since) {
            (true, _) => None,
            (false, since) => Some(since.unwrap_or_else(Instant::now)),
        };
        empty_since = since;
        if since.is_some_and(|since| since.elapsed() >= WORD) {
            return Ok(None);
        }
        match hears.said.recv_timeout(LOOK) {
            Ok(Said::Ended(end)) => return Ok(Some(end)),
            // There is nothing to be told.
            Ok(Said::Listens(_)) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
        }
    }
}

/// Leftovers as asked for, and then what a sweep does.
fn finish(
    state: &StateDir,
    dir: RunDir,
    mut run: RunFile,
    ended: Option<End>,
) -> io::Result<Option<PathBuf>> {
    if let Some(end) = ended {
        run.exit_code = Some(end.exit_code);
    }
    let cgroup = match &run.cgroup {
        Some(place) => match RunCgroup::find(place)? {
            Found::Here(cgroup) => Some(cgroup),
            Found::Gone | Found::Unknown(_) => None,
        },
        None => None,
    };
    if let Some(cgroup) = cgroup.filter(|cgroup| cgroup.populated().unwrap_or(false)) {
        match run.at_end {
            Some(AtEnd::Keep) => run.kept = true,
            Some(AtEnd::Kill) => cgroup.kill(KILL_PATIENCE)?,
            Some(AtEnd::Release | AtEnd::Wait) | None => cgroup.release()?,
        }
    }
    dir.write_run(&run)?;
    let _alone = state.lock(Duration::from_secs(10))?;
    sweep_adopted(dir)
}

/// The run with this id, if it is this caller's; or why not, by the same word whether it is not there or somebody else's.
fn of_caller(
    office: &Office,
    caller: &Caller,
    id: &str,
) -> Result<(StateDir, PathBuf), &'static str> {
    // Whoever is guarded would end its own guard by saying that it has ended.
    match is_in_run(caller.pid) {
        Ok(false) if caller.lives() => {}
        _ => return Err("who is guarded by a run speaks for none"),
    }
    let unknown = "it is none of its caller's";
    let mut places = StateDir::places(&office.post.state_dir);
    let (state, path) = places
        .find_map(|state| {
            let path = state.path().join("runs").join(id);
            path.is_dir().then_some((state, path))
        })
        .ok_or(unknown)?;
    let mine = RunDir::peek(&path).is_ok_and(|run| run.caller == Some(caller.uid));
    mine.then_some((state, path)).ok_or(unknown)
}

/// Say something to whoever looks after a run that is on, as somebody does from here on.
fn say(office: &Arc<Office>, state: &StateDir, path: &Path, id: &str, what: Said) {
    if !RunDir::is_on(path) {
        return;
    }
    if !locked(&office.taken.0).contains_key(id) {
        one(office, state, path.to_owned(), id.to_owned());
    }
    if let Some(mouth) = locked(&office.taken.0).get(id) {
        mouth.say(what);
    }
}

/// Tell the caller of a run whose agent has ended what happens in it from here on.
pub(super) fn listen(
    office: &Arc<Office>,
    link: &Link,
    caller: &Caller,
    id: &str,
) -> Result<(), Refusal> {
    let refused = |why: &str| Refusal {
        cause: Cause::Request,
        what: format!("the agent tells nothing of the run {id}"),
        why: why.to_owned(),
        remedy: String::new(),
    };
    let (state, path) = of_caller(office, caller, id).map_err(refused)?;
    let link = link.again().map_err(|error| refused(&error.to_string()))?;
    say(office, &state, &path, id, Said::Listens(link));
    Ok(())
}

/// Give its report to the caller of a run whose agent has ended meanwhile.
pub(super) fn report(
    office: &Arc<Office>,
    link: &Link,
    caller: &Caller,
    id: &str,
    ended: End,
) -> Result<(), Refusal> {
    let refused = |why: &str| Refusal {
        cause: Cause::Request,
        what: format!("the agent has no report of the run {id}"),
        why: why.to_owned(),
        remedy: String::new(),
    };
    let (state, path) = of_caller(office, caller, id).map_err(refused)?;
    say(office, &state, &path, id, Said::Ended(ended));
    let deadline = Instant::now() + REPORT;
    while RunDir::is_on(&path) {
        if Instant::now() >= deadline {
            return Err(refused("it is not over yet"));
        }
        thread::sleep(STEP);
    }
    let record = RunDir::report_in(&path);
    let read = fs::read(&record).and_then(|octets| {
        let report: Report = serde_json::from_slice(&octets)?;
        Ok(report)
    });
    let report = read.map_err(|error| refused(&error.to_string()))?;
    let said = Reply::Report {
        exit_code: report.run.exit_code,
    };
    hand_over(link, &said, &report);
    Ok(())
}
