//! Writing what is told on this host: by a process of its own, since a file may lie on a server that is down, and who waits there can
//! not even be killed. Whoever started it hears what came of it, for as long as it has patience.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

use crate::local;
use crate::place::{Kept, Place, replace, text_of};
use crate::queue::{self, Job, Local, What};

/// A file that has not answered for so long is on a server that is down.
const ANSWER: Duration = Duration::from_secs(1);
/// Until the process is there that writes; a machine may be busy.
const START: Duration = Duration::from_secs(5);
/// Another run's writer is at the same target: it needs a few milliseconds, or hangs.
const TURN: Duration = Duration::from_millis(300);
/// Nobody waits for the lock here.
const LOCK: Duration = Duration::from_secs(30);

/// What is to be written, and whose outcome somebody waits for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Orders {
    /// What is waited for.
    wanted: Vec<Local>,
    /// What could not be put into the queue.
    jobs: Vec<Job>,
}

impl Orders {
    /// Look whether this file has a URL.
    pub fn look_at(&mut self, url_in: &Path) {
        self.want(Local::UrlIn(url_in.to_owned()));
    }

    /// Replace this file by that text, or leave it to the next such orders.
    pub fn of_text(path: &Path, text: String) -> Self {
        let to = Local::Whole(path.to_owned());
        let mut orders = Self::default();
        orders.want(to.clone());
        orders.with(Job {
            to,
            what: What::Text(text),
        });
        orders
    }

    /// Read this file of targets.
    pub fn of_targets(path: &Path) -> Self {
        let mut orders = Self::default();
        orders.want(Local::Targets(path.to_owned()));
        orders
    }

    /// Is there nothing to wait for?
    pub fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    pub(crate) fn want(&mut self, to: Local) {
        if !self.wanted.contains(&to) {
            self.wanted.push(to);
        }
    }

    pub(crate) fn with(&mut self, job: Job) {
        self.jobs.push(job);
    }
}

/// A line of what a writer says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    /// It is there, and goes to work.
    Began,
    /// Something could not be told, or was lost.
    Warning(String),
    /// What a file with targets has.
    Text(String),
    /// This one is told.
    Done(String),
}

/// What was heard of a writer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// What could not be told, and why.
    pub warnings: Vec<String>,
    /// The text of the file with targets.
    pub text: Option<String>,
    /// All that was wanted is done.
    pub answered: bool,
}

/// Send the orders to a writer, and hear it out; no longer than a second after it went to work. It goes on by itself.
pub fn hear(orders: &Orders, mut to: impl Write, from: impl Read + AsFd) -> Heard {
    let mut heard = Heard::default();
    let mut left: BTreeSet<String> = orders.wanted.iter().map(Local::shown).collect();
    let sent = serde_json::to_vec(orders)
        .map_err(io::Error::from)
        .and_then(|text| to.write_all(&text));
    drop(to);
    if let Err(error) = sent {
        tracing::debug!(%error, "orders for what is written");
    }
    let mut until = Instant::now() + START;
    let mut lines = Lines::new(from);
    while let Some(said) = lines.next(until) {
        match said {
            Said::Began => until = Instant::now() + ANSWER,
            Said::Warning(text) => heard.warnings.push(text),
            Said::Text(text) => heard.text = Some(text),
            Said::Done(target) => {
                left.remove(&target);
            }
        }
        // Who wants nothing of its own waits for all that is there.
        if left.is_empty() && !orders.is_empty() {
            break;
        }
    }
    heard.answered = left.is_empty();
    heard.warnings.extend(left.into_iter().map(|target| {
        format!("{target} has not answered for a second: nobody waits for it any longer, and what it is to be told is kept")
    }));
    heard
}

/// Lines as they come, until some time.
struct Lines<R> {
    from: R,
    read: Vec<u8>,
}

impl<R: Read + AsFd> Lines<R> {
    fn new(from: R) -> Self {
        Self {
            from,
            read: Vec::new(),
        }
    }

    /// The next line; none at the end, or where it is too late.
    fn next(&mut self, until: Instant) -> Option<Said> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return serde_json::from_slice(&line).ok();
            }
            let left = until.checked_duration_since(Instant::now())?;
            let timeout = Timespec::try_from(left).ok()?;
            let mut fds = [PollFd::new(&self.from, PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) => return None,
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return None,
                Ok(_) => {}
            }
            let mut some = [0; 4096];
            match self.from.read(&mut some) {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.read.extend_from_slice(&some[..count]),
            }
        }
    }
}

/// Does something wait to be written below `state`?
pub fn waits(state: &Path) -> bool {
    Place::existing(state).is_some_and(|place| !queue::all(&place).is_empty())
}

/// Write what waits below `state`, and what the orders say; say what comes of it. Returns when everything has answered, and where
/// something never does, never.
pub fn write(state: &Path, mut orders: impl Read, mut say: impl Write) -> io::Result<()> {
    let mut text = Vec::new();
    orders.read_to_end(&mut text)?;
    let Orders { wanted, mut jobs } = match text.is_empty() {
        true => Orders::default(),
        false => serde_json::from_slice(&text)?,
    };
    let mut tell = |said: &Said| {
        let mut line = serde_json::to_vec(said).unwrap_or_default();
        line.push(b'\n');
        // Whoever started this may have gone on.
        let _nobody = say.write_all(&line).and_then(|()| say.flush());
    };
    tell(&Said::Began);
    let place = match Place::existing(state) {
        Some(place) => Some(place),
        None => Place::open(state).ok(),
    };
    let mut targets: BTreeSet<Local> = wanted.iter().cloned().collect();
    // Before a run's start nothing else is waited for.
    let only_reads = |to: &Local| matches!(to, Local::Targets(_));
    if let Some(place) = &place
        && (wanted.is_empty() || !wanted.iter().all(only_reads))
    {
        let waiting = queue::all(place);
        targets.extend(
            waiting
                .iter()
                .filter_map(|one| Some(queue::read(place, one)?.to)),
        );
    }
    let (send, receive) = channel();
    for to in targets {
        let given = jobs.extract_if(.., |job| job.to == to).collect();
        let (place, wanted) = (place.clone(), wanted.contains(&to));
        let target = Target {
            place,
            to,
            wanted,
            say: send.clone(),
        };
        thread::spawn(move || target.serve(given));
    }
    drop(send);
    for said in receive {
        tell(&said);
    }
    Ok(())
}

/// One target, in its thread.
struct Target {
    place: Option<Place>,
    to: Local,
    /// Somebody waits for it.
    wanted: bool,
    say: Sender<Said>,
}

impl Target {
    fn say(&self, said: Said) {
        let _nobody = self.say.send(said);
    }

    fn warn(&self, error: &io::Error) {
        self.say(Said::Warning(format!(
            "cannot tell {}: {error}",
            self.to.shown()
        )));
    }

    fn serve(&self, given: Vec<Job>) {
        if let Err(error) = self.all(given) {
            self.warn(&error);
        }
        self.say(Said::Done(self.to.shown()));
    }

    fn all(&self, mut given: Vec<Job>) -> io::Result<()> {
        loop {
            let patience = if self.wanted { TURN } else { Duration::ZERO };
            let turn = match &self.place {
                None => None,
                Some(place) => match place.lock(&self.to.lock_name(), patience)? {
                    // Whoever has it looks again when it is done.
                    None if !self.wanted => return Ok(()),
                    None => {
                        self.say(Said::Warning(format!(
                            "{} has not answered since an earlier run: what it is to be told is kept",
                            self.to.shown()
                        )));
                        return Ok(());
                    }
                    turn => turn,
                },
            };
            let more = match &self.to {
                Local::File(_) | Local::Journald(_) => self.lines(std::mem::take(&mut given))?,
                Local::Metrics(path) => self.metrics(path)?,
                Local::Whole(path) => {
                    for job in std::mem::take(&mut given) {
                        if let What::Text(text) = job.what {
                            replace(path, 0o644, text.as_bytes())?;
                        }
                    }
                    false
                }
                Local::UrlIn(path) => {
                    self.look(path);
                    false
                }
                Local::Targets(path) => {
                    self.read(path);
                    false
                }
            };
            drop(turn);
            if !more {
                return Ok(());
            }
        }
    }

    /// Write lines. Have more come meanwhile?
    fn lines(&self, given: Vec<Job>) -> io::Result<bool> {
        let Some(place) = &self.place else {
            given.iter().for_each(|job| self.one(job));
            return Ok(false);
        };
        let waiting = queue::of(place, &self.to);
        for one in &waiting {
            if let Some(job) = queue::read(place, one) {
                self.one(&job);
                queue::remove(place, one);
            }
        }
        given.iter().for_each(|job| self.one(job));
        let left = queue::of(place, &self.to);
        Ok(!left.is_empty() && left != waiting)
    }

    fn one(&self, job: &Job) {
        let What::Lines(told) = &job.what else { return };
        let written = match &self.to {
            Local::File(path) => local::file(path, told).map(|lost| (lost, "nobody reads it")),
            Local::Journald(socket) => {
                local::journal(socket.as_deref(), told).map(|lost| (lost, "it does not take them"))
            }
            _ => return,
        };
        match written {
            Ok((0, _)) => {}
            Ok((lost, why)) => {
                let sum = self.dropped(lost);
                self.say(Said::Warning(format!(
                    "{}: {lost} lines were dropped, since {why}; {sum} up to now",
                    self.to.shown()
                )));
            }
            Err(error) => self.warn(&error),
        }
    }

    /// Count what was lost: how many lines that is up to now.
    fn dropped(&self, lost: u64) -> u64 {
        let kept = self.with_kept(|kept| {
            let sum = kept.dropped.entry(self.to.shown()).or_default();
            *sum += lost;
            *sum
        });
        kept.unwrap_or(lost)
    }

    /// Change what is kept; none if that cannot be.
    fn with_kept<T>(&self, change: impl FnOnce(&mut Kept) -> T) -> Option<T> {
        let place = self.place.as_ref()?;
        let _lock = place.lock("lock", LOCK).ok()??;
        let (mut kept, _wrong) = place.kept();
        let value = change(&mut kept);
        place.keep(&kept).ok().map(|()| value)
    }

    /// Count all runs, and write what they came to. Were more counted meanwhile?
    fn metrics(&self, path: &Path) -> io::Result<bool> {
        let unknown = || io::Error::other("what earlier runs came to is not known here");
        let place = self.place.as_ref().ok_or_else(unknown)?;
        let busy =
            || io::Error::other("somebody else has the lock of what is kept: it is counted later");
        let lock = place.lock("lock", LOCK)?.ok_or_else(busy)?;
        let (mut kept, _wrong) = place.kept();
        queue::count(place, &mut kept)?;
        drop(lock);
        let key = blackstart_core::notify::Target::Metrics(path.to_owned()).key();
        let tally = kept.tallies.remove(&key).unwrap_or_default();
        local::metrics(path, &tally, kept.dropped.values().sum())?;
        let (now, _wrong) = place.kept();
        Ok(now.tallies.get(&key).is_some_and(|now| *now != tally)
            || !queue::of(place, &self.to).is_empty())
    }

    /// It is read when something is sent; that it cannot be is told while somebody looks on.
    fn look(&self, path: &Path) {
        if let Err(error) = text_of(path) {
            let path = path.display();
            self.say(Said::Warning(format!(
                "nothing can be sent to the URL in {path}: {error}"
            )));
        }
    }

    fn read(&self, path: &Path) {
        match text_of(path) {
            Ok(text) => self.say(Said::Text(text)),
            Err(error) => self.say(Said::Warning(format!(
                "the targets in {} are not told: {error}",
                path.display()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use blackstart_core::notify::{Sums, Tally};

    use super::*;

    fn job(path: &Path, runs: u64) -> Job {
        let mut tally = Tally::default();
        let sums = Sums {
            succeeded: runs,
            ..Sums::default()
        };
        tally.services.insert("mysql".to_owned(), sums);
        Job {
            to: Local::Metrics(path.to_owned()),
            what: What::Sums(tally),
        }
    }

    fn written(state: &Path) -> Vec<Said> {
        let mut said = Vec::new();
        write(state, io::empty(), &mut said).unwrap();
        let lines = said.split(|byte| *byte == b'\n');
        lines
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }

    #[test]
    fn each_run_is_counted_once_whoever_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::open(dir.path()).unwrap();
        let prom = dir.path().join("b.prom");
        let succeeded = || {
            let text = fs::read_to_string(&prom).unwrap();
            let line = text.lines().find(|line| line.contains("\"succeeded\""));
            line.unwrap().rsplit_once(' ').unwrap().1.to_owned()
        };
        for _ in 0..2 {
            queue::put(&place, &job(&prom, 1)).unwrap();
        }
        // As if it had been killed after it had kept the sums, and before the files were gone.
        let before: Vec<_> = queue::all(&place)
            .iter()
            .map(|one| {
                (
                    one.clone(),
                    fs::read(place.local().join(&one.name)).unwrap(),
                )
            })
            .collect();
        queue::count(&place, &mut place.kept().0).unwrap();
        assert!(queue::all(&place).is_empty());
        for (one, text) in before {
            fs::write(place.local().join(one.name), text).unwrap();
        }
        queue::put(&place, &job(&prom, 1)).unwrap();
        assert_eq!(
            written(dir.path()),
            [Said::Began, Said::Done(job(&prom, 0).to.shown())]
        );
        assert_eq!(succeeded(), "3");
        assert!(queue::all(&place).is_empty());
        queue::put(&place, &job(&prom, 4)).unwrap();
        written(dir.path());
        assert_eq!(succeeded(), "7");
    }

    #[test]
    fn what_somebody_is_at_already_is_left_to_them() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::open(dir.path()).unwrap();
        let job = job(&dir.path().join("b.prom"), 1);
        queue::put(&place, &job).unwrap();
        let _at_it = place.lock(&job.to.lock_name(), TURN).unwrap().unwrap();
        written(dir.path());
        assert_eq!(queue::all(&place).len(), 1);
        let mut orders = Orders::default();
        orders.want(job.to.clone());
        let text = serde_json::to_vec(&orders).unwrap();
        let mut said = Vec::new();
        write(dir.path(), &text[..], &mut said).unwrap();
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains("since an earlier run"), "{said}");
    }

    #[test]
    fn nobody_waits_for_a_writer_that_says_nothing_more() {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut line = serde_json::to_vec(&Said::Began).unwrap();
        line.push(b'\n');
        (&writer).write_all(&line).unwrap();
        let mut orders = Orders::default();
        orders.look_at(Path::new("/net/url"));
        let heard = hear(&orders, io::sink(), reader);
        assert_eq!(heard.warnings.len(), 1);
        assert!(
            heard.warnings[0].contains("/net/url has not answered"),
            "{heard:?}"
        );
    }
}
