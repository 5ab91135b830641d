//! A supervisor that dies in mid-run: what is denied stays so, what is allowed goes on, and the next command takes it up.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use blackstart_core::report::Report;
use blackstart_lab::client::counts_after;
use blackstart_lab::shown::Judged as _;
use blackstart_lab::{Becomes, case};

use crate::guarded::{bare, left_behind, run, start, start_within};
use crate::servers::{FORBIDDEN, MIRROR, PORT};
use crate::stories::{LAB, POLICY};

/// Goes on looking both names up until it is told to stop, and counts what came of it.
const LOOKER: &str = "good=0; bad=0; leaks=0\n\
    until [ -e /tmp/stop ]; do\n\
      blackstart-lab-vm lookup mirror.internal >/tmp/looked && good=$((good+1)) || bad=$((bad+1))\n\
      blackstart-lab-vm lookup github.com >/dev/null && leaks=$((leaks+1))\n\
      echo \"good=$good bad=$bad leaks=$leaks\" >/tmp/counts.new; mv /tmp/counts.new /tmp/counts\n\
    done";

/// Where it counts.
const COUNTS: &str = "/tmp/counts";

/// A machine that is emulated is slow, and busy with others.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn killed_supervisor() {
    let shown = case!(46, "a supervisor that is killed");
    begin();
    let guard = start(&[], POLICY, &["sh", "-c", LOOKER]);
    counts_after(COUNTS.as_ref(), 2);
    guard.kill();
    let killed = guard.wait().exits(128 + 9);
    bare(&[LAB, "lookup", "github.com"]).exits(0);
    goes_on_and_is_swept();
    shown.worked_outside().is(Becomes::Refused, killed.held());
}

/// The supervisor's own cgroup gets less memory than it has, while others of the run connect as fast as they can to what is
/// allowed and to what is denied. The run's cgroup is another one, and the maps are nobody's to reclaim.
pub(crate) fn supervisor_out_of_memory() {
    let shown = case!(46, "a supervisor that is out of memory, under load");
    begin();
    let own = Path::new("/sys/fs/cgroup/own");
    fs::create_dir(own).expect("make a cgroup");
    let connects = |to: &str, when: &str| {
        format!(
            "until [ -e /tmp/stop ]; do {LAB} connect {to} {PORT} >/dev/null {when} echo {to} >>/tmp/wrong; done &\n"
        )
    };
    let load = [
        connects(&MIRROR.0.to_string(), "||"),
        connects(&FORBIDDEN.0.to_string(), "&&"),
        connects(&MIRROR.1.to_string(), "||"),
        connects(&FORBIDDEN.1.to_string(), "&&"),
        LOOKER.to_owned(),
        "; wait".to_owned(),
    ]
    .concat();
    let guard = start_within(own, POLICY, &["sh", "-c", &load]);
    counts_after(COUNTS.as_ref(), 2);
    // The kernel reclaims what it can, and ends who has the rest.
    fs::write(own.join("memory.max"), "65536").expect("take the memory away");
    let killed = guard.wait().exits(128 + 9);
    let events = fs::read_to_string(own.join("memory.events")).expect("read what happened");
    let ended = events
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "));
    assert!(ended.is_some_and(|count| count != "0"), "{events}");
    fs::write(own.join("memory.max"), "max").expect("give the memory back");
    fs::remove_dir(own).expect("nobody is left in there");
    goes_on_and_is_swept();
    let wrong = fs::read_to_string("/tmp/wrong").unwrap_or_default();
    assert_eq!(wrong, "", "an allowed one failed, or a denied one did not");
    // It was taken up, and all of it is accounted for.
    let reports = fs::read_dir("/var/lib/blackstart/runs").expect("read the state");
    let reports = reports.flatten().filter_map(|run| {
        let text = fs::read(run.path().join("report.json")).ok()?;
        serde_json::from_slice::<Report>(&text).ok()
    });
    let adopted = reports
        .filter(|report| {
            report
                .run
                .command
                .iter()
                .any(|word| word.contains("/tmp/wrong"))
        })
        .last()
        .expect("the orphan's record is kept");
    let coverage = &adopted.coverage;
    assert!(coverage.unsupervised_seconds > 0.0, "{coverage:?}");
    assert_eq!(coverage.attempts, coverage.recorded + coverage.lost);
    shown.worked_outside().is(Becomes::Refused, killed.held());
}

fn begin() {
    for file in ["stop", "counts", "wrong"] {
        let _ = fs::remove_file(Path::new("/tmp").join(file));
    }
}

/// Lookups go on and denials hold; once the run has ended, the next command sweeps it.
fn goes_on_and_is_swept() {
    let counts = counts_after(COUNTS.as_ref(), 3);
    assert!(
        counts.contains(" bad=0 leaks=0"),
        "lookups go on and denials hold: {counts}"
    );
    assert!(
        !left_behind().is_empty(),
        "an orphan that lives keeps its pins"
    );
    fs::write("/tmp/stop", "").expect("tell the looker to stop");
    let began = Instant::now();
    while !left_behind().is_empty() {
        assert!(
            began.elapsed() < PATIENCE,
            "the next command sweeps: {:?}",
            left_behind()
        );
        run(&[], "", &["true"]).exits(0);
    }
}
