//! Targets on this host. None of them is waited for.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use blackstart_core::notify::{SHORT, Sums, Tally, Told, journal as entries, lines, short_line};
use blackstart_core::report::Guarded;
use prometheus::core::{AtomicF64, GenericCounterVec, GenericGaugeVec};
use prometheus::{Encoder as _, Opts, Registry, TextEncoder};
use rustix::fs::OFlags;

use crate::place::{locked, replace};

/// Where journald listens.
const JOURNAL: &str = "/run/systemd/journal/socket";
/// Somebody else writes a few lines.
const PATIENCE: Duration = Duration::from_millis(100);

/// Add lines to a file, or write them into a named pipe; how many were lost, because nobody takes them out of the pipe.
pub(crate) fn file(path: &Path, told: &Told) -> io::Result<u64> {
    let lines = lines(told);
    let file = match open(path) {
        // A pipe that nobody reads.
        Err(error) if rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::NXIO) => {
            return Ok(lines.len() as u64);
        }
        other => other?,
    };
    if !file.metadata()?.file_type().is_file() {
        return pipe(&file, told, &lines);
    }
    // Who does not get the lock writes all the same: lines of two runs may then stand in any order.
    // Some file systems know no locks.
    let alone = locked(&file, PATIENCE).unwrap_or(false);
    append(file, &lines.concat(), alone).map(|()| 0)
}

/// Open it to write at its end, without waiting for a reader of a pipe. What is made is for its owner alone.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let flags = OFlags::NONBLOCK.union(OFlags::NOCTTY).bits();
    options
        .append(true)
        .mode(0o600)
        .custom_flags(flags.cast_signed());
    match options.open(path) {
        // Not with the first try: who may write to a pipe in a shared directory may not make one there.
        Err(error) if error.kind() == io::ErrorKind::NotFound => options.create(true).open(path),
        other => other,
    }
}

/// All of it, or nothing, if nobody else writes meanwhile.
fn append(mut file: File, text: &str, alone: bool) -> io::Result<()> {
    let before = file.seek(SeekFrom::End(0))?;
    let mut bytes = Vec::with_capacity(text.len() + 1);
    if before > 0 && !ends_a_line(&file, before) {
        bytes.push(b'\n');
    }
    bytes.extend_from_slice(text.as_bytes());
    file.write_all(&bytes).inspect_err(|_| {
        // Half a line would make the next one unreadable; but what others wrote behind it is theirs.
        if alone {
            let _as_it_is = file.set_len(before);
        }
    })
}

/// Does what is there end with a line's end? What cannot be read counts as if.
fn ends_a_line(file: &File, length: u64) -> bool {
    let mut last = [0];
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
    File::open(path)
        .and_then(|mut file| {
            file.seek(SeekFrom::Start(length - 1))?;
            file.read_exact(&mut last)
        })
        .map_or(true, |()| last == *b"\n")
}

/// Line by line, each as a whole or not at all.
fn pipe(mut pipe: &File, told: &Told, lines: &[String]) -> io::Result<u64> {
    let is_pipe = pipe.metadata()?.file_type().is_fifo();
    let mut lost = 0;
    for (at, line) in lines.iter().enumerate() {
        let short;
        let mut line = line;
        if is_pipe && line.len() > SHORT {
            short = short_line(told, at);
            line = &short;
            if line.len() > SHORT {
                lost += 1;
                continue;
            }
        }
        match pipe.write(line.as_bytes()) {
            Ok(_) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::BrokenPipe
                ) =>
            {
                lost += 1;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(lost)
}

/// Send entries to the journal; how many it did not take.
pub(crate) fn journal(socket: Option<&Path>, told: &Told) -> io::Result<u64> {
    let to = socket.unwrap_or(Path::new(JOURNAL));
    let from = UnixDatagram::unbound()?;
    from.set_nonblocking(true)?;
    let mut lost = 0;
    for entry in entries(told) {
        match from.send_to(&entry, to) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => lost += 1,
            Err(error) => {
                return Err(io::Error::new(
                    error.kind(),
                    format!("no journal takes anything at {}: {error}", to.display()),
                ));
            }
        }
    }
    Ok(lost)
}

/// Replace the file by what runs came to up to now. The collector reads whole files only.
pub(crate) fn metrics(path: &Path, tally: &Tally, dropped: u64) -> io::Result<()> {
    let text = exposition(tally, dropped).map_err(io::Error::other)?;
    // The node exporter is another user.
    replace(path, 0o644, &text)
}

/// As the node exporter reads it.
fn exposition(tally: &Tally, dropped: u64) -> Result<Vec<u8>, prometheus::Error> {
    let registry = Registry::new();
    let counter = |name: &str, help: &str, labels: &[&str]| {
        let vec = GenericCounterVec::<AtomicF64>::new(Opts::new(name, help), labels)?;
        registry.register(Box::new(vec.clone()))?;
        Ok::<_, prometheus::Error>(vec)
    };
    let gauge = |name: &str, help: &str, labels: &[&str]| {
        let vec = GenericGaugeVec::<AtomicF64>::new(Opts::new(name, help), labels)?;
        registry.register(Box::new(vec.clone()))?;
        Ok::<_, prometheus::Error>(vec)
    };
    let runs = counter(
        "blackstart_runs_total",
        "Runs, by how they ended: succeeded, unguarded (exited with 0, and nothing of it was seen), gated (a finding failed them), failed.",
        &["service", "outcome"],
    )?;
    let attempts = counter(
        "blackstart_denied_attempts_total",
        "Attempts that a policy denies: refused, or would_refuse where it only observes.",
        &["service", "verdict"],
    )?;
    let findings = counter(
        "blackstart_findings_total",
        "Findings of runs, by kind.",
        &["service", "kind"],
    )?;
    let gone = counter(
        "blackstart_notifications_dropped_total",
        "Lines for pipes and the journal that nobody took.",
        &[],
    )?;
    let last = "blackstart_last_run_";
    let ended = gauge(
        &format!("{last}timestamp_seconds"),
        "When the last run ended.",
        &["service"],
    )?;
    let code = gauge(
        &format!("{last}exit_code"),
        "How the last run exited; -1 if nobody saw it.",
        &["service"],
    )?;
    let seconds = gauge(
        &format!("{last}duration_seconds"),
        "How long the last run took.",
        &["service"],
    )?;
    let coverage = gauge(
        &format!("{last}coverage_ratio"),
        "Recorded attempts of the last run, of all; 0 if it was unguarded.",
        &["service"],
    )?;
    let guarded = gauge(
        &format!("{last}guarded"),
        "Was the last run guarded: 1 yes, 0.5 in part, 0 no.",
        &["service"],
    )?;
    let gaps = gauge(
        &format!("{last}gaps"),
        "How many kinds of things could not be seen in the last run.",
        &["service"],
    )?;
    let of_last = gauge(
        &format!("{last}findings"),
        "Findings of the last run, by severity.",
        &["service", "severity"],
    )?;
    gone.with_label_values::<&str>(&[]).inc_by(dropped as f64);
    for (service, sums) in &tally.services {
        let service = service.as_str();
        let Sums {
            succeeded,
            unguarded,
            gated,
            failed,
            refused,
            would_refuse,
            ..
        } = *sums;
        for (outcome, count) in [
            ("succeeded", succeeded),
            ("unguarded", unguarded),
            ("gated", gated),
            ("failed", failed),
        ] {
            runs.with_label_values(&[service, outcome])
                .inc_by(count as f64);
        }
        for (verdict, count) in [("refused", refused), ("would_refuse", would_refuse)] {
            attempts
                .with_label_values(&[service, verdict])
                .inc_by(count as f64);
        }
        for (kind, count) in &sums.findings {
            findings
                .with_label_values(&[service, kind])
                .inc_by(*count as f64);
        }
        let one = &[service];
        ended
            .with_label_values(one)
            .set(sums.last_ended as f64 / 1e6);
        code.with_label_values(one)
            .set(sums.last_exit_code.map_or(-1.0, f64::from));
        if let Some(took) = sums.last_seconds {
            seconds.with_label_values(one).set(took);
        }
        if let Some(ratio) = sums.last_coverage() {
            coverage.with_label_values(one).set(ratio);
        }
        if let Some(how) = sums.last_guarded {
            let share = match how {
                Guarded::Yes => 1.0,
                Guarded::Partly => 0.5,
                Guarded::No => 0.0,
            };
            guarded.with_label_values(one).set(share);
        }
        gaps.with_label_values(one).set(sums.last_gaps as f64);
        for (severity, count) in ["info", "warning", "error"].iter().zip(sums.last_findings) {
            of_last
                .with_label_values(&[service, severity])
                .set(count as f64);
        }
    }
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_line_that_somebody_left_half_spoils_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let add = |text: &str| append(open(&path).unwrap(), text, true).unwrap();
        add("a\n");
        add("b\n");
        fs::write(&path, "a\nhalf").unwrap();
        add("c\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "a\nhalf\nc\n");
    }

    #[test]
    fn a_file_without_room_stays_as_it_was() {
        // It takes nothing, and says so.
        assert!(append(open(Path::new("/dev/full")).unwrap(), "x\n", true).is_err());
        assert!(open(Path::new("/no/such/directory/x")).is_err());
    }

    #[test]
    fn metrics_take_any_name_of_a_service() {
        let mut tally = Tally::default();
        tally.services.insert(
            "a\"b\\c\nd".to_owned(),
            Sums {
                gated: 3,
                ..Sums::default()
            },
        );
        let text = String::from_utf8(exposition(&tally, 7).unwrap()).unwrap();
        for line in [
            "# TYPE blackstart_runs_total counter\n",
            "blackstart_runs_total{outcome=\"gated\",service=\"a\\\"b\\\\c\\nd\"} 3\n",
            "blackstart_notifications_dropped_total 7\n",
            "blackstart_last_run_exit_code{service=\"a\\\"b\\\\c\\nd\"} -1\n",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
