//! The stories that are played on each kernel. Each denial has its negation: bare, the same command works.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::panic::catch_unwind;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use blackstart_core::report::{Finding, Gap, Guarded, Outcome, Report, STANDING_GAPS, Verdict};

use blackstart_lab::shown::Judged as _;
use blackstart_lab::{Becomes, case};

use crate::daemons::{attached, daemon_s_socket};
use crate::guarded::{Ended, bare, left_behind, run, start};
use crate::orphans::{killed_supervisor, supervisor_out_of_memory};
use crate::servers::{FORBIDDEN, GITHUB, MIRROR, PORT, QUIET, RESOLVER};
use crate::{agents, ktls, limits, unix};

pub(crate) const LAB: &str = "/bin/blackstart-lab-vm";

pub(crate) const POLICY: &str = "mode: enforce\n\
    rules:\n  - deny: github.com\n  - deny: 198.51.100.128/25\n  - deny: 2001:db8::80/121\n";

/// "At once", in a slow emulated machine. A resolver that gets no answer takes 5 s or more, a TCP connect minutes.
const AT_ONCE: Duration = Duration::from_millis(1500);

/// Plays one story after the other, whatever came of the last.
#[derive(Default)]
pub(crate) struct Play {
    failed: u32,
}

impl Play {
    pub(crate) fn story(&mut self, what: &str, story: impl FnOnce() + std::panic::UnwindSafe) {
        if std::env::var("BLACKSTART_STORY").is_ok_and(|only| !what.contains(&only)) {
            return;
        }
        let began = Instant::now();
        let good = catch_unwind(story).is_ok();
        self.failed += u32::from(!good);
        let word = if good { "ok    " } else { "FAILED" };
        println!("{word} {what} ({:.1?})", began.elapsed());
    }

    pub(crate) fn end(&self) -> ExitCode {
        match self.failed {
            0 => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        }
    }
}

/// Stories for a kernel on which enforce works; a report may carry gaps of these kinds, and must.
pub(crate) fn where_enforce_works(gaps: &[&str]) -> ExitCode {
    let gaps: &BTreeSet<String> = &gaps.iter().map(|&gap| gap.to_owned()).collect();
    let mut play = Play::default();
    play.story("doctor says that enforce is possible", || {
        println!("{}", doctor().exits(0).stdout);
    });
    play.story("the servers answer whoever is not guarded", servers_answer);
    play.story("observe lets all pass, and records it", || {
        observe_records(gaps);
    });
    play.story("a denied name is refused at once", denied_name);
    play.story("a denied address is refused at once", denied_address);
    play.story(
        "a denied name on another's address is refused at once",
        denied_claim,
    );
    play.story(
        "a denied name in a later request is refused soon",
        denied_later,
    );
    ktls::play(&mut play);
    play.story("what is not denied passes", || allowed_passes(gaps));
    play.story(
        "an allow-list admits what was looked up, and nothing else",
        allow_list,
    );
    play.story("lookups over TCP are judged as others are", || {
        lookups_over_tcp(gaps);
    });
    play.story("root in a rehearsal cannot undo its guard", contained);
    unix::play(&mut play, gaps);
    play.story("no program is near the verifier's limit", verifier);
    play.story("the report tells the peak of memory", || {
        let usage = run(&[], "", &["true"]).exits(0).report().run.usage.clone();
        assert!(
            usage.peak_memory.is_some_and(|bytes| bytes > 0),
            "{usage:?}"
        );
    });
    limits::play(&mut play, gaps);
    play.story(
        "a command out of time is ended, its daemon is free",
        time_limit,
    );
    play.story("a clock that jumps changes nothing", clock_that_jumps);
    play.story("a service that is there is seen, judged and left", attached);
    play.story("a daemon's socket is refused by a rule, or that is", || {
        daemon_s_socket(gaps);
    });
    play.story("the guard holds without its supervisor", killed_supervisor);
    play.story("an agent's guards hear each of their own", agents::guards);
    play.story(
        "the guard holds under load where its supervisor is out of memory",
        supervisor_out_of_memory,
    );
    play.story("nothing is left behind", || {
        assert_eq!(left_behind(), BTreeSet::new());
    });
    play.end()
}

/// Stories for a kernel that lacks what enforce needs; a report there carries at least these gaps.
pub(crate) fn where_enforce_refuses(gaps: &[&str]) -> ExitCode {
    let gaps: &BTreeSet<String> = &gaps.iter().map(|&gap| gap.to_owned()).collect();
    let mut play = Play::default();
    play.story("doctor says that enforce is not possible", || {
        let doctor = doctor();
        assert!([1, 2].contains(&doctor.code), "{doctor}");
        println!("{}", doctor.stdout);
    });
    play.story(
        "observe runs the command, and names what it cannot see",
        || {
            let seen = run(
                &[],
                "",
                &["sh", "-c", &format!("{LAB} lookup mirror.internal; exit 7")],
            )
            .exits(7)
            .says(&MIRROR.0.to_string());
            let report = seen.report();
            assert_ne!(report.run.guarded, Guarded::Yes, "{seen}");
            let named = own_gaps(report);
            assert!(named.is_superset(gaps), "{gaps:?} among {named:?}: {seen}");
        },
    );
    play.story("limits hold all the same", || {
        limits::memory(limits::OBSERVED)
    });
    play.story("enforce refuses, and nothing ran", || {
        let shown = case!(61, "a kernel that is too old");
        let refused = run(&[], POLICY, &["touch", "/tmp/it-ran"]).exits(125);
        shown.refused_at_start(&refused);
        assert!(!Path::new("/tmp/it-ran").exists(), "{refused}");
        for missing in [
            "cannot enforce: addresses, names are missing",
            "bpf_loop",
            "bpf_set_retval",
        ] {
            assert!(refused.stderr.contains(missing), "{refused}");
        }
        println!("{}", refused.stderr);
    });
    play.story("nothing is left behind", || {
        assert_eq!(left_behind(), BTreeSet::new());
    });
    play.end()
}

fn doctor() -> Ended {
    bare(&["blackstart", "doctor"])
}

fn servers_answer() {
    for (name, (v4, v6)) in [("mirror.internal", MIRROR), ("github.com", GITHUB)] {
        bare(&[LAB, "lookup", name])
            .exits(0)
            .says(&v4.to_string())
            .says(&v6.to_string());
    }
    for address in both(FORBIDDEN) {
        bare(&[LAB, "connect", &address, &PORT.to_string()])
            .exits(0)
            .says("hello");
        bare(&[LAB, "datagram", &address, "9"]).exits(0);
    }
    bare(&[LAB, "lookup", "nowhere.internal"]).exits(1);
}

fn observe_records(gaps: &BTreeSet<String>) {
    let command = [LAB, "connect", "github.com", &PORT.to_string()];
    let seen = run(&["--mode", "observe"], POLICY, &command)
        .exits(0)
        .says("hello")
        .judged("github.com", Verdict::WouldDeny);
    for name in seen.names("github.com") {
        assert_eq!(seen.argv(name.subject), command, "{name:?}");
    }
    let answered: Vec<_> = seen
        .names("github.com")
        .flat_map(|n| &n.addresses)
        .collect();
    assert!(
        answered.contains(&&GITHUB.0.into()) && answered.contains(&&GITHUB.1.into()),
        "{answered:?}"
    );
    let reached: Vec<_> = [seen.flows(GITHUB.0, PORT), seen.flows(GITHUB.1, PORT)].concat();
    assert_eq!(reached.len(), 1, "one of the two families: {reached:?}");
    assert_eq!(reached[0].name.as_deref(), Some("github.com"));
    assert_eq!(reached[0].outcome, Outcome::Connected);
    assert_eq!(seen.argv(reached[0].subject), command);
    sound(&seen, gaps);
}

fn denied_name() {
    let shown = case!(2);
    let command = [LAB, "connect", "github.com", &PORT.to_string()];
    bare(&command).exits(0);
    let refused = run(&[], POLICY, &command)
        .fails()
        .judged("github.com", Verdict::Deny);
    at_once(&refused);
    for address in [IpAddr::from(GITHUB.0), GITHUB.1.into()] {
        assert!(refused.flows(address, PORT).is_empty(), "{refused}");
    }
    assert!(
        refused
            .names("github.com")
            .all(|name| name.addresses.is_empty() && refused.argv(name.subject) == command),
        "{refused}"
    );
    shown.worked_outside().refused(&refused);
}

fn denied_address() {
    let (four, six, at_once_too) = (case!(25, "denied"), case!(27, "denied"), case!(64));
    for address in both(FORBIDDEN) {
        let port = PORT.to_string();
        bare(&[LAB, "connect", &address, &port]).exits(0);
        let refused = run(&[], POLICY, &[LAB, "connect", &address, &port])
            .fails()
            .says("ConnectionRefused");
        at_once(&refused);
        let flows = refused.flows(address.parse::<IpAddr>().expect("an address"), PORT);
        assert!(
            matches!(flows[..], [one] if one.verdict == Verdict::Deny && one.outcome == Outcome::Refused),
            "{flows:?}"
        );
        assert_eq!(refused.argv(flows[0].subject)[1], "connect");
        let shown = if address.contains(':') { &six } else { &four };
        shown.worked_outside().refused(&refused);
        at_once_too.worked_outside().refused(&refused);
        let refused = run(&[], POLICY, &[LAB, "datagram", &address, "9"])
            .fails()
            .says("ConnectionRefused");
        at_once(&refused);
    }
}

fn denied_claim() {
    let (tls, http) = (case!(28, "the name in TLS"), case!(28, "the name in HTTP"));
    let policy = format!("inspect: [{PORT}]\n{POLICY}");
    let port = PORT.to_string();
    for address in both(MIRROR) {
        for way in ["tls", "http", "tls-cut", "http-cut"] {
            let say =
                |name: &'static str| [LAB, "claim", way, &address, &port, name].map(str::to_owned);
            let told = |name: &'static str| {
                let say = say(name);
                let say: Vec<&str> = say.iter().map(String::as_str).collect();
                run(&[], &policy, &say)
            };
            let outside = say("github.com");
            let outside: Vec<&str> = outside.iter().map(String::as_str).collect();
            bare(&outside).exits(0);
            let refused = told("github.com").fails().says("PermissionDenied");
            at_once(&refused);
            let flows = refused.flows(address.parse::<IpAddr>().expect("an address"), PORT);
            assert!(
                matches!(flows[..], [one] if one.verdict == Verdict::Deny
                    && one.name.as_deref() == Some("github.com")),
                "{way}: {flows:?}"
            );
            let shown = if way.starts_with("tls") { &tls } else { &http };
            shown.worked_outside().refused(&refused);
            told("mirror.internal").exits(0).says("said");
        }
    }
}

/// Nobody is there who could be told at once, but soon.
fn denied_later() {
    let shown = case!(28, "the name in a later request of a connection");
    let policy = format!("inspect: [{QUIET}]\n{POLICY}");
    let port = QUIET.to_string();
    for address in both(MIRROR) {
        for way in ["later", "later-cut"] {
            let say = |name: &'static str| [LAB, "claim", way, &address, &port, name];
            bare(&say("github.com")).exits(0);
            let refused = run(&[], &policy, &say("github.com"));
            let refused = refused.fails().says("TimedOut");
            at_once(&refused);
            let flows = refused.flows(address.parse::<IpAddr>().expect("an address"), QUIET);
            let denied: Vec<_> = flows
                .iter()
                .filter(|flow| flow.verdict == Verdict::Deny)
                .collect();
            assert!(
                matches!(denied[..], [one] if one.name.as_deref() == Some("github.com")),
                "{way}: {flows:?}"
            );
            shown.worked_outside().refused(&refused);
            run(&[], &policy, &say("mirror.internal"))
                .exits(0)
                .says("said");
        }
    }
}

fn allowed_passes(gaps: &BTreeSet<String>) {
    let command = [LAB, "connect", "mirror.internal", &PORT.to_string()];
    let passed = run(&[], POLICY, &command)
        .exits(0)
        .says("hello")
        .judged("mirror.internal", Verdict::Allow);
    let reached: Vec<_> = [passed.flows(MIRROR.0, PORT), passed.flows(MIRROR.1, PORT)].concat();
    assert_eq!(reached.len(), 1, "one of the two families: {reached:?}");
    assert_eq!(reached[0].verdict, Verdict::Allow);
    assert_eq!(reached[0].name.as_deref(), Some("mirror.internal"));
    sound(&passed, gaps);
}

fn allow_list() {
    let shown = case!(11, "by an allow-list");
    let policy = "mode: enforce\ndefault: deny\nrules:\n  - allow: mirror.internal\n";
    let port = PORT.to_string();
    run(&[], policy, &[LAB, "connect", "mirror.internal", &port])
        .exits(0)
        .says("hello");
    run(&[], policy, &[LAB, "connect", "github.com", &port])
        .fails()
        .judged("github.com", Verdict::Deny);
    // Its address without its name is an address like any other.
    for address in both(MIRROR) {
        let refused = run(&[], policy, &[LAB, "connect", &address, &port])
            .fails()
            .says("ConnectionRefused");
        at_once(&refused);
        bare(&[LAB, "connect", &address, &port]).exits(0);
        shown.worked_outside().refused(&refused);
    }
}

fn lookups_over_tcp(gaps: &BTreeSet<String>) {
    let shown = case!(3, "as the C library asks by `use-vc`");
    // What the resolver of the C library takes for `options use-vc`.
    let over_tcp = |line: &str| format!("RES_OPTIONS=use-vc {LAB} {line}");
    let lookup = over_tcp("lookup github.com");
    bare(&["sh", "-c", &lookup])
        .exits(0)
        .says(&GITHUB.0.to_string());
    let connect = over_tcp(&format!("connect mirror.internal {PORT}"));
    for policy in [
        POLICY,
        "mode: enforce\ndefault: deny\nrules:\n  - allow: mirror.internal\n",
    ] {
        let refused = run(&[], policy, &["sh", "-c", &lookup])
            .fails()
            .judged("github.com", Verdict::Deny);
        at_once(&refused);
        shown.worked_outside().refused(&refused);
        let seen = run(&[], policy, &["sh", "-c", &connect])
            .exits(0)
            .says("hello")
            .judged("mirror.internal", Verdict::Allow);
        let servers = seen.flows(RESOLVER, 53);
        assert!(
            !servers.is_empty() && servers.iter().all(|flow| flow.protocol == "tcp"),
            "{servers:?}"
        );
        assert_eq!(own_gaps(seen.report()), *gaps, "{seen}");
    }
}

fn contained() {
    let policy = "mode: enforce\ndefault: deny\nrules: []\n";
    let leave = "echo 0 >/sys/fs/cgroup/cgroup.procs";
    let mount = "mkdir -p /tmp/own && mount -t cgroup2 none /tmp/own && umount /tmp/own";
    let ping = "ping -c 1 -W 5 198.51.100.53";
    let (left_it, pinged_it) = (case!(40, "into another cgroup"), case!(32, "ping"));
    for (way, shown) in [
        (leave, Some(&left_it)),
        (mount, None),
        (ping, Some(&pinged_it)),
    ] {
        bare(&["sh", "-c", way]).exits(0);
        let refused = run(&[], policy, &["sh", "-c", way]).fails();
        if let Some(shown) = shown {
            shown.worked_outside().refused(&refused);
        }
    }
    // Without, two of them are open to root; the third is refused for what it sends through.
    let left = run(&["--no-contain"], policy, &["sh", "-c", leave]).exits(0);
    assert!(finding(&left, "left_cgroup").starts_with("sh "));
    left_it.recorded(&left);
    run(&["--no-contain"], policy, &["sh", "-c", mount]).exits(0);
    let pinged = run(&["--no-contain"], policy, &["sh", "-c", ping]).fails();
    assert!(finding(&pinged, "denied_socket").ends_with(" ICMP socket"));
    pinged_it.refused(&pinged);
    let made = bare(&[LAB, "sctp"]);
    if made.code == 0 {
        let of_sctp = case!(32, "SCTP");
        let contained = run(&[], policy, &[LAB, "sctp"]).fails();
        of_sctp.worked_outside().refused(&contained);
        let loosely = run(&["--no-contain"], policy, &[LAB, "sctp"]).fails();
        assert!(finding(&loosely, "denied_socket").ends_with(" SCTP socket"));
        of_sctp.refused(&loosely);
    } else {
        println!("sctp: not on this kernel: {}", made.stdout.trim());
    }
    // The command's own code, and its own signal.
    run(&[], policy, &["sh", "-c", "exit 7"]).exits(7);
    run(&[], policy, &["sh", "-c", "kill -TERM $$"]).exits(128 + 15);
}

/// Looked at by the verifier for one program, at most: it gives up at a million.
const VERIFIED: u64 = 250_000;

/// The programs of a policy that uses all of them.
fn verifier() {
    let mut policy = "mode: enforce\ndefault: deny\nlease: ttl\nrules:\n  - allow: github.com\n  - deny: 203.0.113.0/24\n  \
        - { deny: other.example, process: curl, on_match: blackhole }\n"
        .to_owned();
    if unix::refuses_by_name() {
        policy += "  - deny: unix:/run/verified.sock\n";
    }
    let started = "echo up >/tmp/verified; until [ -e /tmp/verified-stop ]; do sleep 0.05; done";
    let guard = start(&[], &policy, &["sh", "-c", started]);
    let began = Instant::now();
    while !Path::new("/tmp/verified").exists() {
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "it does not start"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let verified = blackstart_lab::bench::verified_instructions(guard.pid());
    fs::write("/tmp/verified-stop", "").expect("write below /tmp");
    guard.wait().exits(0);
    assert!(verified.len() >= 18, "{verified:?}");
    within_reach_of_the_verifier("", &verified);
}

/// Print what the verifier looked at of each program, and hold it against the bar.
pub(crate) fn within_reach_of_the_verifier(whose: &str, verified: &[(String, u64)]) {
    for (program, instructions) in verified {
        println!("verifier: {instructions:>7} {whose}{program}");
        assert!((1..=VERIFIED).contains(instructions), "{verified:?}");
    }
}

fn time_limit() {
    let shown = case!(67, "a time limit ends it");
    let script = "(setsid sleep 100 & echo $! >/tmp/daemon); sleep 101; echo not reached";
    let limits = "limits: { time: 3s, memory: 200MiB, cpu: 1, pids: 50 }\n";
    let limited = run(&[], limits, &["sh", "-c", script]).exits(124);
    assert!(!limited.stdout.contains("not reached"), "{limited}");
    assert!(limited.took < Duration::from_secs(20), "{limited}");
    let pid = fs::read_to_string("/tmp/daemon").expect("the script wrote it");
    let pid = pid.trim();
    let title = finding(&limited, "limit_time");
    assert!(
        title.contains(&format!("left alone: sleep (pid {pid})")),
        "{title}"
    );
    assert!(
        limited
            .stderr
            .contains(&format!("(pid {pid}) went into the background")),
        "{limited}"
    );
    // It is where the guard was started, and no limit of the run is left.
    let cgroups = |of: &str| fs::read_to_string(format!("/proc/{of}/cgroup")).unwrap_or_default();
    assert_eq!(cgroups(pid), cgroups("self"));
    assert_eq!(left_behind(), BTreeSet::new());
    bare(&["kill", "-9", pid]).exits(0);
    shown.is(Becomes::Kept, limited.held());
}

/// The title of the one finding of this kind.
#[track_caller]
pub(crate) fn finding<'e>(run: &'e Ended, kind: &str) -> &'e str {
    let of_kind = |one: &&Finding| one.kind == kind;
    let found: Vec<_> = run.report().findings.iter().filter(of_kind).collect();
    match found[..] {
        [one] => &one.title,
        _ => panic!("one {kind} in {:?}: {run}", run.report().findings),
    }
}

/// The wall clock is set forth and back by a day while a run is on, which has little time.
fn clock_that_jumps() {
    let shown = case!(56);
    let policy = format!("{POLICY}lease: ttl\nlimits: {{ time: 30s }}\n");
    let looks =
        format!("{LAB} lookup mirror.internal || exit 3; {LAB} lookup github.com && exit 4");
    let reaches = format!("{LAB} connect mirror.internal {PORT} || exit 5");
    let day = "$(($(date +%s)";
    let script = format!(
        "{looks}; date -s @{day} + 86400)); {looks}; {reaches}; date -s @{day} - 172800)); {looks}; {reaches}; \
         date -s @{day} + 86400)); exit 0"
    );
    let run = run(&[], &policy, &["sh", "-c", &script]).exits(0);
    let report = run.report();
    assert!(
        report.run.ended.as_ref() >= Some(&report.run.started),
        "{run}"
    );
    let queries = |verdict| -> u64 {
        let of = report.names.iter().filter(|name| name.verdict == verdict);
        of.map(|name| name.queries).sum()
    };
    assert!(
        queries(Verdict::Deny) >= 3 && queries(Verdict::Allow) >= 3,
        "{run}"
    );
    shown.is(Becomes::Kept, run.held());
}

/// A report as it must be on this kernel, whatever was done.
#[track_caller]
fn sound(run: &Ended, gaps: &BTreeSet<String>) {
    let report = run.report();
    let coverage = &report.coverage;
    let named = own_gaps(report);
    assert_eq!(named, *gaps, "gaps: {run}");
    assert_eq!(report.run.guarded == Guarded::Yes, gaps.is_empty(), "{run}");
    assert!(coverage.attempts > 0, "{coverage:?}");
    assert_eq!(coverage.attempts, coverage.recorded, "{coverage:?}");
    assert_eq!(coverage.lost, 0, "{coverage:?}");
    assert_eq!(coverage.attributed, coverage.recorded, "{coverage:?}");
    assert_eq!(left_behind(), BTreeSet::new());
}

/// The kinds of a report's gaps, without those that stand in every report.
pub(crate) fn own_gaps(report: &Report) -> BTreeSet<String> {
    let stands = |gap: &Gap| STANDING_GAPS.iter().any(|one| one.kind == gap.kind);
    let gaps = report.coverage.gaps.iter();
    gaps.filter(|gap| !stands(gap))
        .map(|gap| gap.kind.clone())
        .collect()
}

/// The refusal, not the guard around it: the client tells how long it took.
#[track_caller]
fn at_once(run: &Ended) {
    let after = run
        .stdout
        .trim_end()
        .rsplit_once(", after ")
        .and_then(|(_, after)| after.strip_suffix(" ms")?.parse().ok())
        .map(Duration::from_millis);
    assert!(
        after.is_some_and(|after| after < AT_ONCE),
        "not at once: {run}"
    );
}

fn both((v4, v6): (std::net::Ipv4Addr, std::net::Ipv6Addr)) -> [String; 2] {
    [v4.to_string(), v6.to_string()]
}
