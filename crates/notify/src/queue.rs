//! What waits to be written on this host: one file for each run and target, until it is written.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use blackstart_core::history::Micros;
use blackstart_core::notify::{Tally, Target, Told};
use serde::{Deserialize, Serialize};

use crate::now;
use crate::place::{Kept, Place, replace};

/// What waits for one target: the earliest goes where there is more.
const MOST: usize = 1000;

static MADE: AtomicU32 = AtomicU32::new(0);

/// A target on this host. It may lie on a file system that does not answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Local {
    File(PathBuf),
    Journald(Option<PathBuf>),
    Metrics(PathBuf),
    /// A file that is replaced as a whole.
    Whole(PathBuf),
    /// A file with a URL, and of which targets: looked at, so that somebody hears of it who looks on.
    UrlIn(PathBuf),
    /// A file with targets.
    Targets(PathBuf),
}

/// What a target is to be told of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) to: Local,
    pub(crate) what: What,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    Lines(Box<Told>),
    /// The sums of this run alone.
    Sums(Tally),
    /// What the file is to have, whatever it had before.
    Text(String),
}

/// A job's file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Waits {
    pub(crate) made: Micros,
    pub(crate) name: String,
}

impl Local {
    pub(crate) fn of(target: &Target) -> Option<Self> {
        match target {
            Target::File(path) => Some(Self::File(path.clone())),
            Target::Journald(socket) => Some(Self::Journald(socket.clone())),
            Target::Metrics(path) => Some(Self::Metrics(path.clone())),
            Target::Otlp(_) | Target::Alert(..) => None,
        }
    }

    /// As what it is shown, and told apart.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::File(path) => Target::File(path.clone()).to_string(),
            Self::Journald(socket) => Target::Journald(socket.clone()).to_string(),
            Self::Metrics(path) => Target::Metrics(path.clone()).to_string(),
            Self::Whole(path) => path.display().to_string(),
            Self::UrlIn(path) => format!("the file with a URL {}", path.display()),
            Self::Targets(path) => format!("the list of targets {}", path.display()),
        }
    }

    /// The lock that whoever works on it holds.
    pub(crate) fn lock_name(&self) -> String {
        format!("local-{}", self.tag())
    }

    fn tag(&self) -> String {
        format!(
            "{:016x}",
            blackstart_core::notify::fingerprint(&self.shown())
        )
    }
}

/// Put a job there. How many earlier ones were too many, and are gone.
pub(crate) fn put(place: &Place, job: &Job) -> io::Result<u64> {
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let name = format!(
        "{:020}-{}-{number}-{}.json",
        now(),
        std::process::id(),
        job.to.tag()
    );
    let text = serde_json::to_vec(job)?;
    replace(&place.local().join(name), 0o600, &text)?;
    if matches!(job.what, What::Sums(_)) {
        return Ok(0);
    }
    let waiting = of(place, &job.to);
    let surplus = waiting.len().saturating_sub(MOST);
    for one in &waiting[..surplus] {
        remove(place, one);
    }
    Ok(surplus as u64)
}

/// All that waits, the earliest first.
pub(crate) fn all(place: &Place) -> Vec<Waits> {
    let files = fs::read_dir(place.local()).into_iter().flatten().flatten();
    let mut found: Vec<Waits> = files
        .filter_map(|file| {
            let name = file.file_name().into_string().ok()?;
            let made = name
                .strip_suffix(".json")?
                .split('-')
                .next()?
                .parse()
                .ok()?;
            Some(Waits { made, name })
        })
        .collect();
    found.sort_unstable();
    found
}

/// What waits for one target.
pub(crate) fn of(place: &Place, to: &Local) -> Vec<Waits> {
    let ending = format!("-{}.json", to.tag());
    let mut found = all(place);
    found.retain(|one| one.name.ends_with(&ending));
    found
}

/// None if somebody has done it meanwhile, or nobody can read it: then it is gone too.
pub(crate) fn read(place: &Place, one: &Waits) -> Option<Job> {
    let text = fs::read(place.local().join(&one.name)).ok()?;
    let job = serde_json::from_slice(&text);
    if job.is_err() {
        remove(place, one);
    }
    job.ok()
}

pub(crate) fn remove(place: &Place, one: &Waits) {
    if let Err(error) = fs::remove_file(place.local().join(&one.name)) {
        tracing::debug!(%error, "what was written");
    }
}

/// Count what waits to be counted, each run once: whoever is killed in between leaves its name in `taken`. To be done with the
/// lock held.
pub(crate) fn count(place: &Place, kept: &mut Kept) -> io::Result<()> {
    let mut counted = Vec::new();
    let mut names = BTreeSet::new();
    for one in all(place) {
        let Some(Job {
            to,
            what: What::Sums(sums),
        }) = read(place, &one)
        else {
            continue;
        };
        if !kept.taken.contains(&one.name)
            && let Local::Metrics(path) = to
        {
            let tally = kept.tallies.entry(Target::Metrics(path).key());
            tally.or_default().merge(&sums);
        }
        names.insert(one.name.clone());
        counted.push(one);
    }
    if counted.is_empty() && kept.taken.is_empty() {
        return Ok(());
    }
    kept.taken = names;
    place.keep(kept)?;
    for one in &counted {
        remove(place, one);
    }
    Ok(())
}
