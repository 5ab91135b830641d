//! What a run keeps on disk, so that its end can be told and cleaned up by somebody else.
//!
//! `<state>/lock` is held for moments, around everything that must not interleave between commands.
//! `<state>/runs/<id>/lock` is held as long as the supervisor lives: it is the run's liveness, and its
//! existence says that the run is not finished. It is removed last.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead as _, BufWriter, Write};
use std::iter;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use blackstart_core::policy::Policy;
use blackstart_core::record::Row;
use blackstart_core::redact::Redaction;
use blackstart_core::report::{
    Account, Attached, DrillFacts, FollowedFacts, Gap, Guarded, Kernel, Mode, PolicySource, Reload,
    RunLimits,
};
use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::AtEnd;
use crate::cgroup::Whereabouts;
use crate::control::{self, Origin};
use crate::resolv::Resolving;
use crate::trusted::is_trusted;

/// Where a run keeps its state that cannot keep it where it should: in memory on all hosts, and so gone after a reboot,
/// as are cgroup and programs.
pub const SPARE: &str = "/run/blackstart";
/// The directories of runs, below the state's.
pub(crate) const RUNS: &str = "runs";
/// What others are to be told (`crates/notify`), below the state's.
pub(crate) const NOTIFY: &str = "notify";

/// May somebody whose state cannot be kept for this reason keep it elsewhere? Not, where it is denied for want of root:
/// then anything else is, too.
pub(crate) fn is_of_the_disk(error: &io::Error) -> bool {
    match error.kind() {
        io::ErrorKind::StorageFull
        | io::ErrorKind::QuotaExceeded
        | io::ErrorKind::ReadOnlyFilesystem => true,
        io::ErrorKind::PermissionDenied => rustix::process::geteuid().is_root(),
        _ => false,
    }
}

/// Shape of the files below; a later release recognises older ones by it.
pub(crate) const LAYOUT: u32 = 1;

const LOCK: &str = "lock";
const RUN: &str = "run.json";
const POLICY: &str = "policy.json";
/// A row a line: it is never in memory as a whole.
const RECORD: &str = "record.jsonl";
/// The part of it that is of followed units, which have tables of their own.
const FOLLOWED: &str = "followed.jsonl";
/// The last line of either: without it, what came last is not there.
const END: &str = "\"end\"";
const REPORT: &str = "report.json";

/// What is known of a run when it starts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RunFile {
    /// [`LAYOUT`].
    pub(crate) layout: u32,
    pub(crate) id: String,
    pub(crate) service: Option<String>,
    /// Redacted.
    pub(crate) command: Vec<String>,
    /// What is taken for a secret besides the shapes that are known.
    #[serde(default)]
    pub(crate) redaction: Redaction,
    pub(crate) host: String,
    pub(crate) mode: Mode,
    pub(crate) policy: Option<PolicySource>,
    /// Wall clock, nanoseconds since the epoch.
    pub(crate) started_ns: i64,
    pub(crate) kernel: Kernel,
    pub(crate) guarded: Guarded,
    /// The run's resolvers and the host's own addresses.
    pub(crate) known_addresses: Vec<IpAddr>,
    /// The host's own addresses, loopback left out.
    #[serde(default)]
    pub(crate) own_addresses: Vec<IpAddr>,
    /// Families of sockets that no program sees could not be made.
    #[serde(default)]
    pub(crate) closed_families: bool,
    /// The command could not undo its guard.
    #[serde(default)]
    pub(crate) contained: bool,
    /// The run's resolvers alone.
    #[serde(default)]
    pub(crate) resolvers: Vec<IpAddr>,
    /// The search list of its resolv.conf.
    #[serde(default)]
    pub(crate) search: Vec<String>,
    /// What was known to be missing at the start.
    pub(crate) gaps: Vec<Gap>,
    /// The limits, and how each was applied.
    #[serde(default)]
    pub(crate) limits: RunLimits,
    /// The kernel's id of this boot: of another one's runs nothing is left but files.
    pub(crate) boot: String,
    /// On disk before it is made.
    pub(crate) cgroup: Option<Whereabouts>,
    /// The directory of pins, on a bpffs.
    pub(crate) pins: Option<PathBuf>,
    /// The run ended with processes left under guard on purpose.
    pub(crate) kept: bool,
    /// Exit code of the child, once it is known.
    pub(crate) exit_code: Option<i32>,
    /// Where the policy was read from.
    #[serde(default)]
    pub(crate) origin: Origin,
    /// Policies that took over while the run was on.
    #[serde(default)]
    pub(crate) reloads: Vec<Reload>,
    /// How many rules of the kept policy are those of earlier ones, which judge no more.
    #[serde(default)]
    pub(crate) first_rule: usize,
    /// Why everything was let pass.
    #[serde(default)]
    pub(crate) break_glass: Option<String>,
    /// The outage that is played for it.
    #[serde(default)]
    pub(crate) drill: Option<DrillFacts>,
    /// What it is attached to, where there is no command.
    #[serde(default)]
    pub(crate) attached: Option<AttachedTo>,
    /// Units that were followed.
    #[serde(default)]
    pub(crate) followed: Vec<FollowedFacts>,
    /// What is to be followed, and did not start up to now.
    #[serde(default)]
    pub(crate) unfollowed: Vec<String>,
    /// The user for whom the agent guards it: its report is theirs.
    #[serde(default)]
    pub(crate) caller: Option<u32>,
    /// What becomes there of processes that outlive the command.
    #[serde(default)]
    pub(crate) at_end: Option<AtEnd>,
    /// From the command's start to the run's end, once it is known.
    #[serde(default)]
    pub(crate) wall_seconds: Option<f64>,
    /// How long nobody supervised it, before somebody did again.
    #[serde(default)]
    pub(crate) unsupervised_seconds: f64,
    /// Its records end with a line of their own, as those of earlier releases did not.
    #[serde(default)]
    pub(crate) marks_ends: bool,
}

impl RunFile {
    /// Take over what resolvers go by.
    pub(crate) fn knows(&mut self, resolving: &Resolving) {
        self.own_addresses.clone_from(&resolving.own);
        self.resolvers.clone_from(&resolving.servers);
        self.search.clone_from(&resolving.search);
        let known = resolving.servers.iter().chain(&resolving.own);
        self.known_addresses = known.copied().collect();
    }
}

/// Somebody else's cgroup, to which programs are attached.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AttachedTo {
    /// As the report tells of it.
    pub(crate) told: Attached,
    /// The kernel's id of the cgroup.
    pub(crate) id: u64,
    /// The kernel's ids of the links.
    pub(crate) links: Vec<u32>,
    /// Since then it waits for the next agent, which guards the same anew before it takes this off (wall clock).
    #[serde(default)]
    pub(crate) left_ns: Option<i64>,
}

/// The directory that all runs of a host share.
#[derive(Debug, Clone)]
pub(crate) struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// Use `path`, made if it is not there.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        is_trusted(path)?;
        private_dir(&path.join(RUNS))?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Use `path` if it is there, and nobody else's.
    pub(crate) fn existing(path: &Path) -> Option<Self> {
        if !path.join(RUNS).is_dir() {
            return None;
        }
        if let Err(error) = is_trusted(path) {
            tracing::warn!(%error, "left alone");
            return None;
        }
        Some(Self {
            path: path.to_owned(),
        })
    }

    /// Where runs go that cannot keep their state below `given`, if some are or were there.
    pub(crate) fn spare_of(given: &Path) -> Option<Self> {
        let spare = Path::new(SPARE);
        (given != spare).then(|| Self::existing(spare)).flatten()
    }

    /// All places in which a run may be kept whose state is to be below `given`.
    pub(crate) fn places(given: &Path) -> impl Iterator<Item = Self> {
        Self::existing(given)
            .into_iter()
            .chain(Self::spare_of(given))
    }

    /// The directories whose content somebody else's command acts upon, where runs have their state below `given`: by what
    /// lies there a run could be reloaded by another policy, its record be changed, its guard be taken off by the next sweep,
    /// and something be sent from outside of it. Made if they are not there: else they could be made later.
    pub(crate) fn kept(given: &Path) -> Vec<PathBuf> {
        let spare = (given != Path::new(SPARE)).then_some(Path::new(SPARE));
        let places = iter::once(given).chain(spare);
        places
            .flat_map(|place| [RUNS, NOTIFY].map(|part| place.join(part)))
            .filter(|dir| {
                if let Err(error) = private_dir(dir) {
                    tracing::debug!(%error, dir = %dir.display(), "not made");
                }
                dir.is_dir()
            })
            .collect()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Keep other commands out until the file is dropped. Somebody stopped in the middle must not hold
    /// up an emergency fix: after `patience` it fails.
    pub(crate) fn lock(&self, patience: Duration) -> io::Result<File> {
        let file = private_file(&self.path.join(LOCK))?;
        let deadline = Instant::now() + patience;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::AGAIN) if Instant::now() < deadline => {
                    sleep(Duration::from_millis(2))
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Begin a run's directory, and hold its lock. Only while holding the common lock, or a sweep could
    /// take it for an orphan.
    pub(crate) fn begin(&self, id: &str) -> io::Result<RunDir> {
        let path = self.path.join(RUNS).join(id);
        private_dir(&path)?;
        let lock = private_file(&path.join(LOCK))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(RunDir {
            path,
            lock: Some(lock),
            held: None,
        })
    }

    /// Directories of runs that are not finished, in order of their start.
    pub(crate) fn unfinished(&self) -> io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(self.path.join(RUNS))?;
        let mut found: Vec<_> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.join(LOCK).exists())
            .collect();
        found.sort_unstable();
        Ok(found)
    }

    /// The directories of runs of which only their files are left.
    pub(crate) fn finished(&self) -> io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(self.path.join(RUNS))?;
        let paths = entries.flatten().map(|entry| entry.path());
        Ok(paths.filter(|path| !path.join(LOCK).exists()).collect())
    }
}

/// The directory of one run; whoever changes something in it holds its lock.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    lock: Option<File>,
    /// Its pins, held as long as it is supervised: by that a run is known to live whose directory somebody removed.
    held: Option<File>,
}

impl RunDir {
    /// Take over a run whose supervisor is gone; none while it lives.
    pub(crate) fn adopt(path: &Path) -> io::Result<Option<Self>> {
        let lock = match OpenOptions::new()
            .read(true)
            .write(true)
            .open(path.join(LOCK))
        {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self {
                path: path.to_owned(),
                lock: Some(lock),
                held: None,
            })),
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Only to read what is in it, while somebody else holds its lock.
    pub(crate) fn look(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            lock: None,
            held: None,
        }
    }

    /// What a run says of itself, without its lock.
    pub(crate) fn peek(path: &Path) -> io::Result<RunFile> {
        read_json(&path.join(RUN))
    }

    /// Where the report of the run in this directory is, if it has one.
    pub(crate) fn report_in(dir: &Path) -> PathBuf {
        dir.join(REPORT)
    }

    /// Is the run in this directory not finished?
    pub(crate) fn is_on(dir: &Path) -> bool {
        dir.join(LOCK).exists()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Hold the run's pins from now on.
    pub(crate) fn hold(&mut self, pins: File) {
        self.held = Some(pins);
    }

    /// Where the report goes.
    pub(crate) fn report_path(&self) -> PathBuf {
        Self::report_in(&self.path)
    }

    pub(crate) fn write_run(&self, run: &RunFile) -> io::Result<()> {
        write_json(&self.path.join(RUN), run, false)
    }

    pub(crate) fn read_run(&self) -> io::Result<RunFile> {
        read_json(&self.path.join(RUN))
    }

    /// The policy that the run is judged by: adopting needs it, and its files may have changed by then.
    pub(crate) fn write_policy(&self, policy: &Policy) -> io::Result<()> {
        write_json(&self.path.join(POLICY), policy, false)
    }

    /// That policy, if there was one.
    pub(crate) fn read_policy(&self) -> io::Result<Option<Policy>> {
        match read_json(&self.path.join(POLICY)) {
            Ok(policy) => Ok(Some(policy)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The record so far, as `read` gives it. Its time stamp is the supervisor's last sign of life.
    pub(crate) fn write_record(
        &self,
        read: impl FnOnce(&mut dyn FnMut(&Row)) -> io::Result<()>,
    ) -> io::Result<()> {
        self.write_rows(RECORD, read)
    }

    /// The same of units that are, or were, followed.
    pub(crate) fn write_followed(
        &self,
        read: impl FnOnce(&mut dyn FnMut(&Row)) -> io::Result<()>,
    ) -> io::Result<()> {
        self.write_rows(FOLLOWED, read)
    }

    fn write_rows(
        &self,
        name: &str,
        read: impl FnOnce(&mut dyn FnMut(&Row)) -> io::Result<()>,
    ) -> io::Result<()> {
        replace(&self.path.join(name), false, |out| {
            let mut written = Ok(());
            read(&mut |row| {
                if written.is_ok() {
                    written = serde_json::to_writer(&mut *out, row)
                        .map_err(io::Error::from)
                        .and_then(|()| out.write_all(b"\n"));
                }
            })?;
            written?;
            writeln!(out, "{END}")
        })
    }

    /// Hand every row of it to `each`, up to where it is torn: an error says that rows are missing after those. `marked` is
    /// what the run says of its records ([`RunFile::marks_ends`]).
    pub(crate) fn read_record(&self, marked: bool, each: &mut dyn FnMut(Row)) -> io::Result<()> {
        self.read_rows(RECORD, marked, each)
    }

    /// The same of followed units, if there were any.
    pub(crate) fn read_followed(&self, marked: bool, each: &mut dyn FnMut(Row)) -> io::Result<()> {
        match self.read_rows(FOLLOWED, marked, each) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            read => read,
        }
    }

    fn read_rows(&self, name: &str, marked: bool, each: &mut dyn FnMut(Row)) -> io::Result<()> {
        let mut rows = 0;
        for line in io::BufReader::new(File::open(self.path.join(name))?).lines() {
            let line = line?;
            if line == END {
                return Ok(());
            }
            each(serde_json::from_str(&line)?);
            rows += 1;
        }
        if marked || rows == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{name} ends before its end"),
            ));
        }
        Ok(())
    }

    /// The supervisor lives, and has nothing to write.
    pub(crate) fn show_life(&self) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.path.join(RUN))?;
        file.set_modified(SystemTime::now())
    }

    /// Does somebody supervise the run in this directory?
    pub(crate) fn is_supervised(dir: &Path) -> bool {
        let lock = File::open(dir.join(LOCK));
        lock.is_ok_and(|lock| {
            flock(&lock, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::AGAIN)
        })
    }

    /// When the record of the run in this directory was written last.
    pub(crate) fn last_checkpoint(dir: &Path) -> Option<SystemTime> {
        let written = fs::metadata(dir.join(RECORD));
        written.and_then(|about| about.modified()).ok()
    }

    /// When the supervisor was last known to live.
    pub(crate) fn last_sign_of_life(&self) -> Option<SystemTime> {
        let modified = |name: &str| {
            fs::metadata(self.path.join(name))
                .and_then(|m| m.modified())
                .ok()
        };
        modified(RECORD).max(modified(RUN))
    }

    /// The report, on disk for good.
    pub(crate) fn write_report(&self, report: &Account) -> io::Result<()> {
        write_json(&self.report_path(), report, true)
    }

    /// The run is over and nothing of it is left in the kernel: only its report stays.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        control::remove(&self.path);
        for name in [RECORD, FOLLOWED, LOCK] {
            match fs::remove_file(self.path.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        self.lock = None;
        Ok(())
    }

    /// As if the run had never been: nothing ran.
    pub(crate) fn discard(mut self) -> io::Result<()> {
        fs::remove_dir_all(&self.path)?;
        self.lock = None;
        Ok(())
    }
}

/// The kernel's id of the boot that this is.
pub(crate) fn boot() -> io::Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(text.trim().to_owned())
}

/// State tells what was deployed with which arguments: not everybody's business.
fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    serde_json::from_reader(io::BufReader::new(File::open(path)?)).map_err(io::Error::from)
}

fn write_json(path: &Path, value: &impl Serialize, durable: bool) -> io::Result<()> {
    replace(path, durable, |out| {
        serde_json::to_writer(&mut *out, value)?;
        out.write_all(b"\n")
    })
}

/// Replace a file as a whole or not at all.
fn replace(
    path: &Path,
    durable: bool,
    fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    let beside = path.with_extension("new");
    // One that was killed while it wrote. Nothing that is there is written through.
    let _absent = fs::remove_file(&beside);
    let written = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|file| {
            let mut out = BufWriter::new(file);
            fill(&mut out)?;
            let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
            if durable { file.sync_all() } else { Ok(()) }
        })
        .and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // A full disk must not keep half a file as well.
        let _ = fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use blackstart_core::record::Counters;

    #[test]
    fn each_place_is_looked_at_once() {
        let found = StateDir::places(Path::new(SPARE)).map(|state| state.path);
        assert!(found.count() <= 1);
        let dir = tempfile::tempdir().unwrap();
        let given = StateDir::open(dir.path()).unwrap();
        let found: Vec<_> = StateDir::places(given.path())
            .map(|state| state.path)
            .collect();
        assert_eq!(found[0], dir.path());
        assert!(found.len() <= 2);
    }

    #[test]
    fn liveness_is_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(&dir.path().join("deep/state")).unwrap();
        let run = state.begin("1").unwrap();
        let path = run.path.clone();
        assert_eq!(state.unfinished().unwrap(), std::slice::from_ref(&path));
        assert!(RunDir::adopt(&path).unwrap().is_none());
        drop(run);
        // A child that another test is just starting holds a copy of the lock until it execs.
        let orphan = (0..1000)
            .find_map(|_| {
                let adopted = RunDir::adopt(&path).unwrap();
                if adopted.is_none() {
                    std::thread::sleep(Duration::from_millis(10));
                }
                adopted
            })
            .unwrap();
        let rows = [Row::Clock(7), Row::Counters(Counters::default())];
        orphan
            .write_record(|each| {
                rows.iter().for_each(each);
                Ok(())
            })
            .unwrap();
        let mut read = Vec::new();
        orphan.read_record(true, &mut |row| read.push(row)).unwrap();
        assert_eq!(read, rows);
        assert!(orphan.last_sign_of_life().is_some());
        orphan.finish().unwrap();
        assert!(state.unfinished().unwrap().is_empty());
        assert!(RunDir::adopt(&path).unwrap().is_none());
        assert!(path.is_dir());
    }

    #[test]
    fn the_common_lock_is_not_waited_for_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let held = state.lock(Duration::ZERO).unwrap();
        assert!(state.lock(Duration::from_millis(5)).is_err());
        drop(held);
        // A child that another test is just starting holds a copy of the descriptor until it execs.
        state.lock(Duration::from_secs(10)).unwrap();
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        write_json(&path, &1, true).unwrap();
        replace(&path, false, |_| Err(io::ErrorKind::StorageFull.into())).unwrap_err();
        assert_eq!(read_json::<i32>(&path).unwrap(), 1);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
