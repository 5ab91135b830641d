//! What was there before the guard: a service that is attached to, and a daemon that is asked by its socket.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use blackstart_core::report::{Outcome, Verdict};
use blackstart_lab::case;

use crate::guarded::{Ended, attach, bare, left_behind, run};
use crate::servers::{DAEMON, MIRROR, PORT};
use crate::stories::{LAB, POLICY};
use crate::unix::refuses_by_name;

/// A service has a cgroup of its own; what it starts while somebody looks on is judged, and goes as it likes afterwards.
pub(crate) fn attached() {
    let shown = case!(63, "of an attach");
    let cgroup = Path::new("/sys/fs/cgroup/service");
    fs::create_dir(cgroup).expect("make the service's cgroup");
    let service = |host: &str| -> Ended {
        let port = PORT.to_string();
        let enter = format!("echo $$ >{}/cgroup.procs; exec \"$@\"", cgroup.display());
        bare(&["sh", "-ec", &enter, "sh", LAB, "connect", host, &port])
    };
    service("github.com").exits(0);
    let guard = attach(cgroup, POLICY);
    service("github.com").fails();
    service("mirror.internal").exits(0).says("hello");
    guard.end();
    let ended = guard
        .wait()
        .exits(0)
        .judged("github.com", Verdict::Deny)
        .judged("mirror.internal", Verdict::Allow);
    let reached = [ended.flows(MIRROR.0, PORT), ended.flows(MIRROR.1, PORT)].concat();
    assert!(
        matches!(reached[..], [one] if one.outcome == Outcome::Connected),
        "{reached:?}"
    );
    assert_eq!(ended.argv(reached[0].subject)[1], "connect");
    // Nothing hangs on it any more.
    service("github.com").exits(0);
    fs::remove_dir(cgroup).expect("nobody is left in there");
    assert_eq!(left_behind(), BTreeSet::new());
    shown.is(blackstart_lab::Becomes::Kept, blackstart_lab::Held::Loosely);
}

/// Where the kernel has hooks for unix sockets a rule about one holds; elsewhere nothing runs that would rely on it.
pub(crate) fn daemon_s_socket(gaps: &BTreeSet<String>) {
    let ask = [LAB, "unix", DAEMON];
    bare(&ask).exits(0).says("reached");
    let rule = format!("mode: enforce\nrules:\n  - deny: unix:{DAEMON}\n");
    let other = "mode: enforce\nrules:\n  - deny: unix:/run/other.sock\n";
    if gaps.contains("unix_sockets") && !refuses_by_name() {
        let shown = case!(
            36,
            "a helper behind a unix socket, by a rule that this kernel cannot keep"
        );
        let refused = run(&[], &rule, &ask).exits(125);
        assert!(refused.stderr.contains(DAEMON), "{refused}");
        shown.refused_at_start(&refused);
        return;
    }
    let passed = case!(36, "a helper behind a unix socket");
    let refused = case!(36, "a helper behind a unix socket, by a rule");
    let told = |ended: &Ended, verdict| {
        let delegates = &ended.report().delegates;
        let found = delegates.iter().find(|one| one.path == DAEMON);
        let found = found.unwrap_or_else(|| panic!("{delegates:?}: {ended}"));
        assert_eq!((found.verdict, found.attempts), (verdict, 1), "{ended}");
        assert_eq!(ended.argv(found.subject), ask);
    };
    for policy in ["mode: enforce\nrules: []\n", other] {
        let seen = run(&[], policy, &ask).exits(0).says("reached");
        told(&seen, Verdict::Allow);
        passed.worked_outside().recorded(&seen);
    }
    let denied = run(&[], &rule, &ask).fails();
    told(&denied, Verdict::Deny);
    refused.worked_outside().refused(&denied);
}
