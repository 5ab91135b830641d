//! An agent on this kernel: its guards share one tracer, and each hears of its own processes.

use std::path::Path;

use blackstart_core::report::Verdict;

use crate::guarded::{Running, begin, run, start};
use crate::stories::{LAB, POLICY, within_reach_of_the_verifier};

const SOCKET: &str = "/run/agent-of-stories/socket";

/// Two runs at once by way of an agent, and one that is told to end while a third goes on.
pub(crate) fn guards() {
    let agent = begin(&["blackstart", "agent", "--socket", SOCKET, "--spares", "1"]);
    until(&agent, "it listens", || Path::new(SOCKET).exists());
    let by_agent = format!("--agent={SOCKET}");
    let ask = |names: &str, mark: &str| {
        let script = format!(
            "for name in {names}; do {LAB} lookup $name; done; (exec /bin/sh -c : {mark}); exit 0"
        );
        start(&[&by_agent], POLICY, &["sh", "-c", &script])
    };
    let one = ask("github.com mirror.internal", "of-one");
    let other = ask("mirror.internal", "of-other");
    let one = one.wait().exits(0);
    let other = other.wait().exits(0);
    let one = one
        .judged("github.com", Verdict::Deny)
        .judged("mirror.internal", Verdict::Allow);
    let other = other.judged("mirror.internal", Verdict::Allow);
    assert_eq!(other.names("github.com").count(), 0, "{other}");
    for (ended, own, foreign) in [(&one, "of-one", "of-other"), (&other, "of-other", "of-one")] {
        let report = ended.report();
        let with = |mark: &str| {
            let rows = report.subjects.iter();
            rows.filter(|row| row.argv.last().is_some_and(|word| word == mark))
                .count()
        };
        assert_eq!((with(own), with(foreign)), (1, 0), "{ended}");
        assert!(
            report.subjects.iter().all(|row| row.ended.is_some()),
            "each end was seen: {ended}"
        );
        let coverage = &report.coverage;
        assert_eq!(coverage.attributed, coverage.recorded, "{coverage:?}");
        assert_eq!(coverage.lost, 0, "{coverage:?}");
    }
    let verified = blackstart_lab::bench::verified_instructions(agent.pid());
    assert!(!verified.is_empty());
    within_reach_of_the_verifier("of the agent: ", &verified);
    agent.end();
    agent.wait().exits(0);
    run(&[], "", &["true"]).exits(0);
}

fn until(agent: &Running, what: &str, mut done: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !done() {
        assert!(
            began.elapsed() < std::time::Duration::from_secs(60),
            "{what}: {}",
            agent.pid()
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
