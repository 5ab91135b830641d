//! A run that goes on, as its checkpoints tell of it: read from its files, with nothing asked of whoever supervises it.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use blackstart_core::report::{Account, Ledger, Usage};

use crate::state::RunDir;
use crate::story::{End, tell, wall_ns};

/// When its supervisor wrote down last what the run in this directory has come to: while that is the same, nothing has happened.
pub fn last_checkpoint(dir: &Path) -> Option<SystemTime> {
    RunDir::last_checkpoint(dir)
}

/// What the run in this directory has come to by its last checkpoint, with its owner where the caller knows that; none if it is
/// over, or has none yet.
pub fn meanwhile(dir: &Path, owner: Option<String>) -> io::Result<Option<Account>> {
    let is_over = || !RunDir::is_on(dir) || RunDir::report_in(dir).exists();
    if is_over() {
        return Ok(None);
    }
    let files = RunDir::look(dir);
    let run = files.read_run()?;
    if run.started_ns == 0 {
        return Ok(None);
    }
    let mut record = Ledger::redacting(&run.redaction);
    match files.read_record(run.marks_ends, &mut |row| record.add(row)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read?,
    }
    files.read_followed(run.marks_ends, &mut |row| record.add(row))?;
    let policy = files.read_policy()?;
    let took = u64::try_from(wall_ns(SystemTime::now()) - run.started_ns).ok();
    let end = End {
        usage: Usage {
            wall_seconds: took.map(|ns| Duration::from_nanos(ns).as_secs_f64()),
            ..Usage::default()
        },
        ..End::default()
    };
    let mut report = tell(&run, policy.as_ref(), record, end);
    report.owned_by(owner);
    // Its end may have come meanwhile, and have taken away what was read here.
    Ok(Some(report).filter(|_| !is_over()))
}
