//! Runs whose supervisor is gone: adopt their record, and sweep what they left in the kernel.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use blackstart_core::report::exit_code::GATED;
use blackstart_core::report::{Gap, Guarded, Ledger, LimitFacts};
use blackstart_kernel::{Error, Orphan, Session, detach_links};

use crate::cgroup::{Found, RunCgroup};
use crate::pins;
use crate::plan::Need;
use crate::run::gates;
use crate::state::{RunDir, RunFile, SPARE, StateDir, boot};
use crate::story::{End, tell, wall_ns};
use crate::stray;
use crate::trusted::is_trusted;

/// How long another command may take with its own sweep or set-up.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long what an agent has left to the next one waits for that.
const NEXT_AGENT: Duration = Duration::from_secs(60);

/// Kind of the gap where rows of a record were lost with the disk's blocks.
const RECORD_TORN: &str = "record_torn";
/// Kind of the gap where the policy was.
const POLICY_LOST: &str = "policy_lost";

/// What a sweep found.
#[derive(Debug, Default)]
pub struct Swept {
    /// Runs that are over now: their reports.
    pub adopted: Vec<PathBuf>,
    /// Runs without a supervisor whose processes go on, under guard.
    pub living: Vec<Living>,
    /// What could not be cleaned up.
    pub failed: Vec<Failed>,
    /// Runs of which nothing could be told any more and that are gone now: their directories, and why.
    pub lost: Vec<(PathBuf, String)>,
}

/// A run without a supervisor that could not be cleaned up, or not be looked at. Its processes may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// The run's directory.
    pub path: PathBuf,
    /// What it deploys, if that can be read.
    pub service: Option<String>,
    /// Why.
    pub why: String,
}

/// A run without a supervisor whose processes go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Living {
    /// The run.
    pub id: String,
    /// What it deploys.
    pub service: Option<String>,
}

impl Swept {
    fn is_empty(&self) -> bool {
        let Self {
            adopted,
            living,
            failed,
            lost,
        } = self;
        adopted.is_empty() && living.is_empty() && failed.is_empty() && lost.is_empty()
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.adopted.extend(other.adopted);
        self.living.extend(other.living);
        self.failed.extend(other.failed);
        self.lost.extend(other.lost);
    }
}

/// Who takes care of what others have left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heir {
    /// Any command: what waits for the next agent goes on waiting, for a while.
    Command,
    /// The agent, which guards by now what waited for it.
    Agent,
}

/// Adopt and clean up every run below `state_dir`, or where runs go that cannot keep their state there, that nobody
/// supervises and nothing inhabits any more. Runs that are supervised, and orphans that live, are left alone; so is what an
/// agent that is being replaced has left to the next one.
pub fn sweep(state_dir: &Path) -> io::Result<Swept> {
    sweep_by(Heir::Command, state_dir)
}

/// The same, by this one.
pub(crate) fn sweep_by(heir: Heir, state_dir: &Path) -> io::Result<Swept> {
    let mut spare = sweep_spare_by(heir, state_dir);
    spare.add(stray::sweep());
    let swept = is_trusted(state_dir).and_then(|()| match StateDir::existing(state_dir) {
        None => Ok(Swept::default()),
        Some(state) => {
            let _alone = state.lock(PATIENCE)?;
            sweep_locked_by(heir, &state)
        }
    });
    match swept {
        // A disk that is full, say: what was found elsewhere is to be told all the same.
        Err(error) if !spare.is_empty() => {
            tracing::warn!(%error, path = %state_dir.display(), "cannot be swept");
            Ok(spare)
        }
        swept => swept.map(|mut swept| {
            swept.add(spare);
            swept
        }),
    }
}

/// Only where runs go that cannot keep their state below `state_dir`.
pub(crate) fn sweep_spare(state_dir: &Path) -> Swept {
    sweep_spare_by(Heir::Command, state_dir)
}

fn sweep_spare_by(heir: Heir, state_dir: &Path) -> Swept {
    let Some(state) = StateDir::spare_of(state_dir) else {
        return Swept::default();
    };
    let locked = state.lock(PATIENCE);
    let swept = locked.and_then(|_alone| sweep_locked_by(heir, &state));
    swept.unwrap_or_else(|error| {
        tracing::warn!(%error, "{SPARE} cannot be swept");
        Swept::default()
    })
}

/// The same, while holding the common lock.
pub(crate) fn sweep_locked(state: &StateDir) -> io::Result<Swept> {
    sweep_locked_by(Heir::Command, state)
}

fn sweep_locked_by(heir: Heir, state: &StateDir) -> io::Result<Swept> {
    let mut swept = Swept::default();
    for path in state.unfinished()? {
        let outcome = match RunDir::adopt(&path) {
            Ok(Some(dir)) => sweep_one(dir, heir),
            Ok(None) => continue,
            Err(error) => Err(error),
        };
        let service = || RunDir::peek(&path).ok().and_then(|run| run.service);
        match outcome {
            Ok(Outcome::Over(report)) => swept.adopted.extend(report),
            Ok(Outcome::Lives(living)) => swept.living.push(living),
            Ok(Outcome::Waits) => {}
            Ok(Outcome::Lost(why)) => {
                tracing::warn!(path = %path.display(), why, "a run is lost");
                swept.lost.push((path, why));
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "sweep");
                swept.failed.push(Failed {
                    service: service(),
                    why: error.to_string(),
                    path,
                });
            }
        }
    }
    Ok(swept)
}

/// The same for one run whose lock is held, while holding the common lock: its report, if it is over now.
pub(crate) fn sweep_adopted(dir: RunDir) -> io::Result<Option<PathBuf>> {
    match sweep_one(dir, Heir::Command)? {
        Outcome::Over(report) => Ok(report),
        Outcome::Lives(_) | Outcome::Waits => Ok(None),
        Outcome::Lost(why) => Err(io::Error::other(why)),
    }
}

enum Outcome {
    /// Its report, if it had come far enough to have one.
    Over(Option<PathBuf>),
    Lives(Living),
    /// It is left to the next agent.
    Waits,
    /// Nothing could be told of it: why.
    Lost(String),
}

/// Is what was left at this moment still to wait for the next agent, now? A clock that was set back keeps nobody waiting.
fn waits(left_ns: i64, now_ns: i64) -> bool {
    let since = now_ns.checked_sub(left_ns);
    let since = since.and_then(|since| u64::try_from(since).ok());
    since.is_some_and(|since| Duration::from_nanos(since) < NEXT_AGENT)
}

fn sweep_one(dir: RunDir, heir: Heir) -> io::Result<Outcome> {
    let id = dir
        .path()
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let mut run = match dir.read_run() {
        Ok(run) => Some(run),
        // It died before it had anything to tell, and so before it made anything.
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return lost(&id, dir, error),
    };
    if let (Some(to), Heir::Command) = (run.as_mut().and_then(|run| run.attached.as_mut()), heir)
        && let Some(left_ns) = to.left_ns
    {
        if waits(left_ns, wall_ns(SystemTime::now())) {
            return Ok(Outcome::Waits);
        }
        // That did not come.
        to.told.until = None;
    }
    let pins = pins::existing(&id, dir.path());
    let attached = run.as_ref().and_then(|run| run.attached.as_ref());
    if let (Some(to), true, Some(run)) = (attached, pins.is_empty(), &run)
        && run.boot == boot()?
    {
        // Pinned where this process cannot look: taken off all the same, though what was recorded since the last
        // checkpoint stays there.
        detach_links(&to.links, to.id);
    }
    let cgroup = match run.as_ref().map(|run| (&run.boot, &run.cgroup)) {
        // What an earlier boot made went with it.
        Some((run, _)) if !run.is_empty() && *run != boot()? => None,
        Some((_, Some(cgroup))) => match RunCgroup::find(cgroup)? {
            Found::Here(cgroup) => Some(cgroup),
            Found::Gone => {
                RunCgroup::remove_rest(cgroup)?;
                None
            }
            // Its processes may live, and be guarded by nothing else than what would be taken down here.
            Found::Unknown(why) => {
                return Err(io::Error::other(format!(
                    "left alone: {why}; run `blackstart sweep` where it was started (its container, its namespace)"
                )));
            }
        },
        // Of what is attached to it is of no account.
        _ if !pins.is_empty() && attached.is_none() => {
            return Err(io::Error::other(
                "left alone: its programs are there, and where its cgroup is was not recorded",
            ));
        }
        _ => None,
    };
    // What is attached without a supervisor is to be taken off, whoever lives there: it is not ours.
    if let (Some(run), Some(cgroup), None) = (&run, &cgroup, attached)
        && cgroup.populated()?
    {
        return Ok(Outcome::Lives(Living {
            id,
            service: run.service.clone(),
        }));
    }
    let report = match run {
        // Begun, and then a signal or a death before the child: nothing happened that could be told.
        Some(run) if run.started_ns != 0 => {
            if !dir.report_path().exists() || run.kept {
                adopt(&dir, run, pins.first(), cgroup.as_deref())?;
            }
            Some(dir.report_path())
        }
        _ => None,
    };
    for pins in &pins {
        Orphan::remove(pins).map_err(|error| io::Error::other(described(&error)))?;
    }
    pins::tidy(dir.path());
    if let Some(cgroup) = cgroup {
        cgroup.remove()?;
    }
    match report {
        Some(_) => dir.finish()?,
        None => dir.discard()?,
    }
    Ok(Outcome::Over(report))
}

/// What a run said of itself cannot be read: files are replaced as a whole, so the machine lost its power meanwhile, or
/// the disk its blocks. While programs of it are there it is left alone; else nothing is left of it but files, of which
/// a report is kept.
fn lost(id: &str, dir: RunDir, error: io::Error) -> io::Result<Outcome> {
    if !matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
    ) || !pins::existing(id, dir.path()).is_empty()
    {
        return Err(error);
    }
    pins::tidy(dir.path());
    if dir.report_path().exists() {
        dir.finish()?;
    } else {
        dir.discard()?;
    }
    Ok(Outcome::Lost(format!("its run.json is torn: {error}")))
}

/// Write the report that the supervisor could not.
fn adopt(
    dir: &RunDir,
    mut run: RunFile,
    pins: Option<&PathBuf>,
    cgroup: Option<&RunCgroup>,
) -> io::Result<()> {
    let read = |pins: &PathBuf| {
        let mut record = Ledger::redacting(&run.redaction);
        Orphan::open(pins)?.read(&mut |row| record.add(row))?;
        Ok(record)
    };
    let (mut record, lost, torn) = match pins.map(read) {
        Some(Ok(record)) => (record, None, None),
        other => {
            let why = match other {
                Some(Err::<_, Error>(error)) => described(&error),
                _ => "its maps are gone".to_owned(),
            };
            let (record, torn) = kept_record(dir, &run);
            (record, Some(why), torn)
        }
    };
    if lost.is_some() && run.guarded == Guarded::Yes {
        run.guarded = Guarded::Partly;
    }
    let last_seen = dir.last_sign_of_life().map_or(run.started_ns, wall_ns);
    // What was attached to is guarded until now, whether anybody is there or not.
    let over = record
        .last_end_ns()
        .filter(|end| *end >= last_seen && run.attached.is_none())
        .unwrap_or_else(|| wall_ns(SystemTime::now()));
    let torn_followed = dir
        .read_followed(run.marks_ends, &mut |row| record.add(row))
        .err();
    let policy = dir.read_policy();
    let last = Duration::from_nanos(u64::try_from(over - last_seen).unwrap_or(0));
    let unsupervised_seconds = run.unsupervised_seconds + last.as_secs_f64();
    let mut gap_of = |kind: &str, detail: String| {
        run.gaps.push(Gap {
            kind: kind.to_owned(),
            detail,
            count: 0,
        });
    };
    if let Some(why) = torn {
        let detail = format!(
            "what was kept of the run on disk cannot be read to its end, and rows of it are missing: {why}"
        );
        gap_of(RECORD_TORN, detail);
    }
    if let Some(error) = torn_followed {
        let detail =
            format!("what was kept of followed units on disk cannot be read to its end: {error}");
        gap_of(RECORD_TORN, detail);
    }
    let unread = match &policy {
        Err(error) => Some(error.to_string()),
        Ok(None) if run.policy.is_some() => Some("it is gone".to_owned()),
        Ok(_) => None,
    };
    if let Some(why) = unread {
        let detail = format!(
            "the policy that the run was judged by cannot be read again: its rules have numbers here, no reasons and no `reaction`: {why}"
        );
        gap_of(POLICY_LOST, detail);
    }
    let policy = policy.unwrap_or_default();
    let mut gap = |detail: String| gap_of(Need::Supervision.kind(), detail);
    if run.limits.time.is_some() && unsupervised_seconds > 0.0 {
        gap("without a supervisor nobody held the time limit".to_owned());
    }
    for one in run.followed.iter().filter(|one| one.until.is_none()) {
        gap(format!(
            "{} was starting when the supervisor ended: what it did from there on was not seen",
            one.unit
        ));
    }
    // That there was no supervisor, and for how long, the report says by itself.
    if run.kept {
        gap("processes were left under guard without a supervisor, as asked for".to_owned());
    }
    if let Some(why) = lost {
        gap(format!(
            "what happened after the last checkpoint is not known: {why}"
        ));
    }
    if run.exit_code == Some(0) && gates(policy.as_ref(), &record) {
        run.exit_code = Some(GATED);
    }
    let (mut usage, memory_hits) = crate::run::usage(cgroup, None);
    let took = u64::try_from(over - run.started_ns).ok();
    usage.wall_seconds = took.map(|ns| Duration::from_nanos(ns).as_secs_f64());
    let end = End {
        ended_ns: Some(over),
        usage,
        limits: LimitFacts {
            memory_hits,
            ..LimitFacts::default()
        },
        leftovers: Vec::new(),
        unsupervised_seconds,
    };
    dir.write_report(&tell(&run, policy.as_ref(), record, end))
}

/// What of a run's record is on disk; and why that is not the whole of it, where it is torn. A power cut tears it, since nobody
/// forces it to the disk.
pub(crate) fn kept_record(dir: &RunDir, run: &RunFile) -> (Ledger, Option<String>) {
    let mut record = Ledger::redacting(&run.redaction);
    let torn = dir.read_record(run.marks_ends, &mut |row| record.add(row));
    let why = torn.err().map(|error| match error.kind() {
        io::ErrorKind::NotFound => "nothing of it was kept yet".to_owned(),
        _ => error.to_string(),
    });
    (record, why)
}

/// An error with its causes.
pub(crate) fn described(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        text = format!("{text}: {cause}");
        below = cause.source();
    }
    text
}

/// Take down a run's programs and maps, whoever holds them.
pub(crate) fn remove_programs(session: Option<Session>, pins: Option<&Path>) -> Result<(), String> {
    let removed = session
        .map_or(Ok(()), Session::remove)
        .map_err(|error| described(&error));
    // A session that failed half-way leaves pins behind, and one that was never pinned leaves a directory.
    match pins.filter(|pins| pins.exists()) {
        Some(pins) => Orphan::remove(pins).map_err(|error| described(&error)),
        None => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blackstart_core::record::{Attribution, Counters, FlowRow, Row, Verdict};
    use blackstart_core::report::Report;

    #[test]
    fn an_orphan_without_a_start_is_discarded_and_a_living_supervisor_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let state = StateDir::open(temp.path()).unwrap();
        drop(state.begin("dead").unwrap());
        let alive = state.begin("alive").unwrap();
        let dead = temp.path().join("runs/dead");
        // A child that another test is just starting holds a copy of the lock until it execs.
        for _ in 0..1000 {
            let swept = sweep(temp.path()).unwrap();
            assert!(
                swept.adopted.is_empty() && swept.living.is_empty() && swept.failed.is_empty(),
                "{swept:?}"
            );
            if !dead.exists() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(!dead.exists());
        assert!(temp.path().join("runs/alive").exists());
        drop(alive);
    }

    #[test]
    fn what_an_agent_left_to_the_next_one_does_not_wait_for_ever() {
        let second = 1_000_000_000;
        assert!(waits(5 * second, 5 * second) && waits(5 * second, 64 * second));
        assert!(!waits(5 * second, 65 * second));
        // A clock that was set back.
        assert!(!waits(5 * second, 4 * second));
        assert!(!waits(i64::MIN, i64::MAX));
    }

    #[test]
    fn a_run_that_a_power_cut_tore_is_swept_once() {
        let temp = tempfile::tempdir().unwrap();
        let state = StateDir::open(temp.path()).unwrap();
        for (id, said, report) in [("1", "", false), ("2", "{\"layout\":1,", true)] {
            let dir = state.begin(id).unwrap();
            std::fs::write(dir.path().join("run.json"), said).unwrap();
            if report {
                std::fs::write(dir.report_path(), "{}").unwrap();
            }
        }
        let mut lost = Vec::new();
        // A child that another test is just starting holds a copy of the lock until it execs.
        for _ in 0..1000 {
            let swept = sweep(temp.path()).unwrap();
            assert!(swept.failed.is_empty(), "{swept:?}");
            lost.extend(swept.lost.into_iter().map(|(path, _)| path));
            if lost.len() == 2 {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert_eq!(lost.len(), 2);
        assert!(state.unfinished().unwrap().is_empty());
        assert!(!temp.path().join("runs/1").exists());
        assert!(temp.path().join("runs/2/report.json").exists());
    }

    /// The report of a run of an earlier boot, whose record and policy are `record` and `policy`.
    fn adopted_of(record: Option<&str>, policy: &str) -> Report {
        let temp = tempfile::tempdir().unwrap();
        let state = StateDir::open(temp.path()).unwrap();
        let dir = state.begin("1").unwrap();
        let run: RunFile = serde_json::from_value(serde_json::json!({
            "layout": 1, "id": "1", "command": ["x"], "host": "h", "mode": "observe",
            "policy": {"digest": "d", "files": ["p.yaml"]}, "started_ns": 1, "guarded": "yes",
            "kernel": {"release": "r", "features": []}, "known_addresses": [], "gaps": [],
            "boot": "an earlier one", "kept": false, "marks_ends": true,
        }))
        .unwrap();
        dir.write_run(&run).unwrap();
        if let Some(record) = record {
            std::fs::write(dir.path().join("record.jsonl"), record).unwrap();
        }
        std::fs::write(dir.path().join("policy.json"), policy).unwrap();
        adopt(&dir, run, None, None).unwrap();
        serde_json::from_slice(&std::fs::read(dir.report_path()).unwrap()).unwrap()
    }

    #[test]
    fn what_a_power_cut_tore_off_a_record_is_a_gap_and_the_rest_is_told() {
        let policy = "apiVersion: blackstart.dev/v1\nkind: Policy\nrules: [{deny: a.test}]\n";
        let policy = blackstart_core::policy::alone(policy, "p.yaml").unwrap();
        let policy = serde_json::to_string(&policy.policy).unwrap();
        let record = record_of(4);
        let gap =
            |report: &Report, kind: &str| report.coverage.gaps.iter().any(|it| it.kind == kind);

        let whole = adopted_of(Some(&record), &policy);
        assert_eq!(whole.flows.len(), 4);
        assert!(!gap(&whole, RECORD_TORN) && !gap(&whole, POLICY_LOST));
        // In the middle of a row, at a row's end, and with blocks that were never written.
        let half = record.len() - 40;
        let line = record.trim_end().rfind('\n').unwrap() + 1;
        let blocks = format!("{}{}", &record[..half], "\0".repeat(40));
        for (cut, flows) in [
            (&record[..half], 3),
            (&record[..line], 4),
            (&blocks, 3),
            ("", 0),
        ] {
            let torn = adopted_of(Some(cut), &policy);
            assert_eq!(torn.flows.len(), flows, "what is there is told: {cut}");
            assert!(gap(&torn, RECORD_TORN), "{:?}", torn.coverage.gaps);
            assert_eq!(torn.run.guarded, Guarded::Partly);
        }
        assert!(gap(&adopted_of(None, &policy), RECORD_TORN));
        for torn in ["", "{\"service\":"] {
            assert!(gap(&adopted_of(Some(&record), torn), POLICY_LOST));
        }
    }

    /// A record with so many flows, as a supervisor keeps it.
    fn record_of(flows: u16) -> String {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateDir::open(temp.path()).unwrap().begin("1").unwrap();
        dir.write_record(|each| {
            each(&Row::Clock(7));
            each(&Row::Counters(Counters {
                attempts: flows.into(),
                ..Counters::default()
            }));
            for port in 1..=flows {
                each(&Row::Flow(FlowRow {
                    subject: 0,
                    name: 0,
                    address: [192, 0, 2, 1].into(),
                    port,
                    protocol: 6,
                    verdict: Verdict::Allow,
                    rule: 0,
                    attribution: Attribution::Unnamed,
                    attempts: 1,
                    connected: 1,
                    refused: 0,
                    timed_out: 0,
                    bytes_sent: 0,
                    first_ns: 1,
                    last_ns: 1,
                }));
            }
            Ok(())
        })
        .unwrap();
        std::fs::read_to_string(dir.path().join("record.jsonl")).unwrap()
    }

    #[test]
    fn no_state_is_nothing_to_sweep() {
        let temp = tempfile::tempdir().unwrap();
        assert!(sweep(&temp.path().join("none")).unwrap().living.is_empty());
        assert!(!temp.path().join("none").exists());
    }
}
