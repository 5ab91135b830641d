//! Attempts that are easily missed, or taken for somebody else's.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use blackstart_core::report::{Attribution, Guarded, Outcome, Report, Verdict};
use blackstart_lab::client::reach;
use blackstart_lab::shown::Judged as _;
use blackstart_lab::{Becomes, Held, World, Zone, case, program};
use rustix::process::Signal;

fn python(code: &str, rest: &[&str]) -> Vec<String> {
    [&["/usr/bin/python3", "-c", code], rest]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect()
}

#[test]
fn an_address_is_the_same_however_it_is_written() {
    let shown = case!(26);
    let world = World::new("written");
    let web = world.node("web");
    web.http();
    world.dns(Zone::new());
    let number = u32::from(web.v4());
    let [a, b, c, d] = web.v4().octets();
    for written in [
        format!("{number}"),
        format!("{number:#x}"),
        format!("{a:#o}.{b:#o}.{c:#o}.{d:#o}").replace("0o", "0"),
        format!("{a}.{b}.{}", u32::from(c) << 8 | u32::from(d)),
        format!("{a:#x}.{b}.{c}.{d:#x}"),
    ] {
        let url = format!("http://{written}/");
        let curl = ["curl", "-sS", "-m", "5", &url];
        shown.outside(&world.run(&curl).says("hello from web"));
        let run = world
            .guard()
            .policy(&format!("mode: enforce\nrules:\n  - deny: {}\n", web.v4()))
            .run(&curl)
            .exits(7);
        assert_eq!(run.flow(web.v4(), 80).verdict, Verdict::Deny, "{written}");
        shown.refused(&run);
        // Nobody looked anything up.
        let run = world
            .guard()
            .policy("mode: enforce\ndefault: deny\nrules:\n  - allow: \"*.example.com\"\n")
            .run(&curl)
            .exits(7);
        assert_eq!(run.flow(web.v4(), 80).verdict, Verdict::Deny, "{written}");
        shown.refused(&run);
    }
}

#[test]
fn an_address_that_a_program_has_kept_passes_a_deny_list_and_lowers_coverage() {
    let cached = case!(11, "by a deny-list");
    let pooled = case!(12, "an address that was kept");
    let world = World::new("kept_address");
    let web = world.node("web");
    web.tcp_echo(7);
    world.dns(Zone::new().host("github.com", &web));
    // Looked up before the run, as by a cache of the application's own.
    let looked_up = world.run(&["getent", "ahostsv4", "github.com"]).stdout;
    let address = looked_up.split(' ').next().unwrap();
    let bare = world.run(&reach("tcp", address, 7));
    cached.outside(&bare);
    pooled.outside(&bare);
    let deny = "mode: enforce\nrules:\n  - deny: github.com\n";
    let run = world
        .guard()
        .policy(deny)
        .run(&reach("tcp", address, 7))
        .exits(0);
    let flow = run.flow(web.v4(), 7);
    assert_eq!(
        (flow.verdict, flow.attribution),
        (Verdict::Allow, Attribution::Unnamed)
    );
    assert!(run.gaps().contains("unnamed_addresses"), "{:?}", run.gaps());
    cached.recorded(&run);
    pooled.recorded(&run);
    assert!(run.report().coverage.attributed < run.report().coverage.attempts);
    // An allow-list refuses it.
    world
        .guard()
        .policy("mode: enforce\ndefault: deny\nrules:\n  - allow: github.com\n")
        .run(&reach("tcp", address, 7))
        .exits(1)
        .says("ECONNREFUSED");
}

#[test]
fn work_that_is_done_on_another_host_is_seen_as_the_way_there() {
    let shown = case!(44, "by a deny-list");
    let denied = case!(44, "by a rule about that host");
    let world = World::new("ssh");
    let other = world.node("other");
    // Whatever answers there, the connection is made; this ends it.
    other.http_on(22);
    world.dns(Zone::new().a("other.internal", other.v4()));
    let ssh = [
        "ssh",
        "-o",
        "BatchMode=yes",
        "-o",
        "ConnectTimeout=5",
        "-o",
        "StrictHostKeyChecking=no",
        "other.internal",
        "curl http://github.com/",
    ];
    // It ends in ssh's own words, not in ours: the server spoke.
    let bare = world.run(&ssh);
    assert_eq!(bare.code, 255, "{bare:?}");
    shown.worked_outside();
    denied.worked_outside();
    let run = world.guard().run(&ssh);
    let flow = run.flow(other.v4(), 22);
    assert_eq!(
        (flow.name.as_deref(), flow.verdict, flow.outcome),
        (Some("other.internal"), Verdict::Allow, Outcome::Connected)
    );
    shown.recorded(&run);
    assert!(
        run.chain(flow.subject)[0].ends_with("curl http://github.com/"),
        "{:?}",
        run.chain(flow.subject)
    );
    let run = world
        .guard()
        .policy("mode: enforce\nrules:\n  - deny: other.internal:22\n")
        .run(&ssh)
        .exits(255);
    assert_eq!(run.flow(other.v4(), 22).verdict, Verdict::Deny);
    denied.refused(&run);
}

#[test]
fn no_mark_port_or_number_makes_an_attempt_the_guard_s_own() {
    let shown = case!(48);
    let world = World::new("spoof");
    let web = world.node("web");
    web.tcp_echo(7);
    web.udp_echo(7);
    world.dns(Zone::new());
    let code = "import errno, socket, struct, sys
def attempt(kind, prepare):
    s = socket.socket(socket.AF_INET, kind)
    s.settimeout(3)
    try:
        prepare(s)
        s.connect((sys.argv[1], 7)); s.send(b'x'); s.recv(1)
        return 'passed'
    except OSError as e:
        return errno.errorcode[e.errno]
mark = lambda m: lambda s: s.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack('I', m))
def port(p):
    def prepare(s):
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(('', p))
    return prepare
def priority(s): s.setsockopt(socket.SOL_SOCKET, 12, 6)
ways = [mark(m) for m in (1, 0x53, 0xb5, 0x80000000, 0xffffffff)] + [port(p) for p in (53, 853, 1023)] + [priority]
found = {attempt(kind, way) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM) for way in ways}
print(*sorted(found))";
    let line = python(code, &[&web.v4().to_string()]);
    shown.outside(&world.run(&line).says("passed\n"));
    let policy = format!("mode: enforce\nrules:\n  - deny: {}\n", web.v4());
    let run = world
        .guard()
        .policy(&policy)
        .run(&line)
        .exits(0)
        .says("ECONNREFUSED\n");
    assert!(!run.ended.stdout.contains("passed"), "{}", run.ended.stdout);
    shown.refused(&run);
    let run = world
        .guard()
        .policy(&policy)
        .arg("--contain")
        .run(&line)
        .exits(0);
    // What needs a privilege that was taken is not even tried.
    assert!(!run.ended.stdout.contains("passed"), "{}", run.ended.stdout);
    shown.refused(&run);
    // As the first process of a pid namespace, with the number that a guard might have there.
    let mut first = vec!["unshare".to_owned(), "--pid".into(), "--fork".into()];
    first.extend(line);
    world.run(&first).succeeds().says("passed\n");
    let run = world
        .guard()
        .policy(&policy)
        .run(&first)
        .exits(0)
        .says("ECONNREFUSED\n");
    assert!(!run.ended.stdout.contains("passed"));
}

#[test]
fn a_connect_belongs_to_the_process_whichever_thread_makes_it() {
    let shown = case!(53);
    let world = World::new("threads");
    let web = world.node("web");
    web.tcp_echo(7);
    world.dns(Zone::new().below("example", &web));
    let code = "import socket, threading, queue
found = queue.Queue()
def look():
    for i in range(50): found.put(socket.getaddrinfo(f'n{i}.example', 7, socket.AF_INET, socket.SOCK_STREAM)[0][4])
def connect():
    for i in range(50): socket.create_connection(found.get()).close()
threads = [threading.Thread(target=t) for t in (look, connect)]
[t.start() for t in threads]
[t.join() for t in threads]
print('done')";
    shown.outside(&world.run(&python(code, &[])));
    let run = world
        .guard()
        .policy(
            "mode: enforce\ndefault: deny\nrules:\n  - allow: .example\n"
                .replace(".example", "\"*.example\"")
                .as_str(),
        )
        .run(&python(code, &[]))
        .exits(0)
        .says("done");
    let reached: Vec<_> = run
        .flows(web.v4())
        .into_iter()
        .filter(|flow| flow.protocol == "tcp")
        .collect();
    assert_eq!(reached.iter().map(|flow| flow.attempts).sum::<u64>(), 50);
    let subjects: std::collections::BTreeSet<_> = reached.iter().map(|flow| flow.subject).collect();
    assert_eq!(subjects.len(), 1, "{reached:#?}");
    assert!(
        reached
            .iter()
            .all(|flow| flow.name.is_some() && flow.subject.is_some())
    );
    shown.recorded(&run);
}

#[test]
fn what_the_kernel_sends_again_is_no_attempt_and_nobody_else_s() {
    let shown = case!(54);
    let world = World::new("sent_again");
    let web = world.node("web");
    world.dns(Zone::new());
    // An address behind a machine that does not know it, and does not say so.
    let nowhere: Ipv4Addr = [203, 0, 113, 7].into();
    let add = [
        "ip",
        "route",
        "add",
        "203.0.113.0/24",
        "via",
        &web.v4().to_string(),
    ];
    world.run(&add).succeeds();
    // Others work meanwhile: a retransmission finds one of them running, or nobody.
    let code = "import os, socket, sys, time
busy = [os.fork() for _ in range(2)]
if 0 in busy:
    end = time.time() + 4
    while time.time() < end: pass
    os._exit(0)
s = socket.socket()
s.settimeout(3.5)
print(s.connect_ex((sys.argv[1], 9)))";
    shown.outside(&world.run(&python(code, &[&nowhere.to_string()])));
    let run = world
        .guard()
        .run(&python(code, &[&nowhere.to_string()]))
        .exits(0);
    let flow = run.flow(nowhere, 9);
    assert_eq!((flow.attempts, flow.verdict), (1, Verdict::Allow));
    assert!(
        flow.bytes_sent >= 2 * 40,
        "it was sent again: {} bytes",
        flow.bytes_sent
    );
    assert!(run.chain(flow.subject)[0].contains("connect_ex"));
    assert!(
        run.report()
            .flows
            .iter()
            .all(|flow| flow.subject.is_some() && flow.attribution != Attribution::Unknown),
        "{:#?}",
        run.report().flows
    );
    shown.recorded(&run);
}

#[test]
fn a_relay_on_loopback_is_a_destination_of_its_own() {
    let passed = case!(36, "a relay on loopback");
    let denied = case!(36, "a relay on loopback, by a rule");
    let world = World::new("relay");
    let github = world.node("github");
    github.http();
    world.dns(Zone::new().host("github.com", &github));
    // Started outside of the run: it goes where the run may not.
    let relay = format!(
        "import socket, threading
l = socket.create_server(('127.0.0.1', 8118))
print('listening', flush=True)
while True:
    c, _ = l.accept()
    o = socket.create_connection(('{}', 80))
    def pump(a, b):
        while (d := a.recv(4096)): b.send(d)
        b.shutdown(socket.SHUT_WR)
    [threading.Thread(target=pump, args=p).start() for p in ((c, o), (o, c))]",
        github.v4()
    );
    let mut relay = world.start(&python(&relay, &[]));
    relay.wait_for("listening");
    let curl = ["curl", "-sS", "-m", "5", "http://127.0.0.1:8118/"];
    let bare = world.run(&curl).says("hello from github");
    passed.outside(&bare);
    denied.outside(&bare);
    let policy = format!(
        "mode: enforce\nrules:\n  - deny: github.com\n  - deny: {}\n",
        github.v4()
    );
    let local: Ipv4Addr = Ipv4Addr::LOCALHOST;
    // A default that denies allows what is on this host.
    for policy in [
        policy.clone(),
        policy.replace("rules:", "default: deny\nrules:"),
    ] {
        let run = world
            .guard()
            .policy(&policy)
            .run(&curl)
            .exits(0)
            .says("hello from github");
        let flow = run.flow(local, 8118);
        assert_eq!(
            (flow.verdict, flow.outcome),
            (Verdict::Allow, Outcome::Connected)
        );
        assert!(run.chain(flow.subject)[0].starts_with("curl"));
        passed.recorded(&run);
        // Where the relay stands is known, so that it can be denied like any other destination.
        let run = world
            .guard()
            .policy(&format!("{policy}  - deny: \"127.0.0.1:8118\"\n"))
            .run(&curl)
            .exits(7);
        assert_eq!(run.flow(local, 8118).verdict, Verdict::Deny);
        denied.refused(&run);
    }
}

#[test]
fn a_hundred_thousand_sockets_and_ten_thousand_names_are_all_counted() {
    let shown = case!(51);
    let world = World::new("many_sockets");
    let web = world.node("web");
    let dns = world.dns(Zone::new().below("many.example", &web));
    let code = "import socket, struct, sys
server = (sys.argv[1], 53)
for i in range(100000):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.connect((sys.argv[2], 9))
    s.close()
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
s.connect(server)
for i in range(10000):
    name = f'n{i}'.encode()
    wire = bytes([len(name)]) + name + b'\\4many\\7example\\0'
    s.send(struct.pack('>6H', i, 256, 1, 0, 0, 0) + wire + struct.pack('>2H', 1, 1))
    s.recv(512)
print('done')";
    let line = python(code, &[&dns.address().to_string(), &web.v4().to_string()]);
    shown.outside(&world.run(&line));
    let run = world.guard().run(&line).exits(0).says("done");
    let coverage = &run.report().coverage;
    assert_eq!(
        (coverage.attempts, coverage.recorded, coverage.lost),
        (100_001, 100_001, 0)
    );
    assert_eq!(run.flow(web.v4(), 9).attempts, 100_000);
    let names: std::collections::BTreeSet<_> = run
        .report()
        .names
        .iter()
        .map(|name| name.name.as_str())
        .filter(|name| name.ends_with(".many.example"))
        .collect();
    assert_eq!(names.len(), 10_000);
    shown.recorded(&run);
}

#[test]
fn a_flood_thins_the_live_view_and_not_the_record() {
    let shown = case!(52);
    let world = World::new("flood");
    world.dns(Zone::new());
    // As many different refusals as one processor can make, while the supervisor does not look.
    let code = "import errno, os, signal, socket
os.kill(os.getppid(), signal.SIGSTOP)
s = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(8)]
refused = 0
for i in range(30000):
    refused += s[i % 8].connect_ex((f'198.18.{i >> 8}.{i & 255}', 9)) == errno.ECONNREFUSED
os.kill(os.getppid(), signal.SIGCONT)
print(refused)";
    // Nobody refuses it outside, and nobody is to be stopped there.
    let bare = code.replace("os.kill(os.getppid(), ", "str(");
    shown.outside(&world.run(&python(&bare, &[])).says("0\n"));
    let run = world
        .guard()
        .policy("mode: enforce\nrules:\n  - deny: 198.18.0.0/15\n")
        .run(&python(code, &[]))
        .exits(0)
        .says("30000\n");
    let coverage = &run.report().coverage;
    assert_eq!(
        (coverage.attempts, coverage.recorded, coverage.lost),
        (30_000, 30_000, 0)
    );
    let denied = run
        .report()
        .flows
        .iter()
        .filter(|flow| flow.verdict == Verdict::Deny && flow.attempts == 1);
    assert_eq!(denied.count(), 30_000);
    shown.recorded(&run);
}

#[test]
fn the_guard_needs_nothing_that_its_policy_takes_away() {
    let shown = case!(66, "its policy denies it everything");
    let world = World::new("cut_off");
    let dns = world.dns(Zone::new());
    // No name server, no network, no way out at all; and neither for the supervisor.
    let alone = ["unshare", "--net", "--"].map(str::to_owned).to_vec();
    for policy in [
        format!("mode: enforce\nrules:\n  - deny: {}\n", dns.address()),
        "mode: enforce\ndefault: deny\nrules: []\n".to_owned(),
    ] {
        for through in [Vec::new(), alone.clone()] {
            let run = world
                .guard()
                .policy(&policy)
                .through(through)
                .run(&["sh", "-c", "getent hosts github.com; echo on; exit 3"])
                .exits(3)
                .says("on");
            assert_eq!(run.report().run.exit_code, Some(3));
            shown.is(Becomes::Kept, run.held());
        }
    }
}

#[test]
fn a_run_outlives_the_program_that_guards_it() {
    let shown = case!(47);
    let (world, ..) = World::with_names("upgrade");
    let policy = world.policy(
        "policy.yaml",
        "mode: enforce\nrules:\n  - deny: github.com\n",
    );
    let installed = world.dir().join("blackstart");
    let install = || {
        let new = world.dir().join("blackstart.new");
        program::copy(blackstart_lab::guard::binary(), &new);
        std::fs::rename(&new, &installed).unwrap();
    };
    install();
    let state = format!("BLACKSTART_STATE={}", world.guard().state().display());
    let typed = |rest: &[&str]| {
        let mut line = vec![
            "env".to_owned(),
            state.clone(),
            installed.display().to_string(),
        ];
        line.extend(rest.iter().map(|&word| word.to_owned()));
        line
    };
    let deploy = "echo ready; until [ -e go ]; do sleep 0.05; done; \
        curl -sS http://mirror.internal/; curl -sS http://github.com/; echo ended $?";
    let report = world.dir().join("upgraded.json");
    let report = report.display().to_string();
    let run = [
        "run", "--policy", &policy, "--report", &report, "--", "sh", "-c", deploy,
    ];
    // The file is replaced while its program runs.
    let mut under_way = world.start(&typed(&run));
    under_way.wait_for("ready");
    install();
    world.run(&typed(&["doctor"]));
    world.file("go", "");
    under_way
        .wait()
        .succeeds()
        .says("hello from mirror")
        .says("ended 6\n");
    std::fs::remove_file(world.dir().join("go")).unwrap();
    assert!(
        std::fs::read_to_string(&report)
            .unwrap()
            .contains("\"deny\"")
    );
    // The old program is ended by force, and the new one finds its run.
    let mut under_way = world.start(&typed(&run));
    under_way.wait_for("ready");
    install();
    under_way.signal(Signal::KILL);
    world.run(&typed(&["doctor"]));
    assert!(!world.left_behind().is_empty(), "it lives, and is guarded");
    world.file("go", "");
    let began = Instant::now();
    while !world.left_behind().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(30));
        world.run(&typed(&["doctor"]));
    }
    assert!(
        under_way.stdout().ends_with("ended 6\n"),
        "{}",
        under_way.stdout()
    );
    shown.is(Becomes::Kept, Held::Loosely);
}

/// As a release with other maps finds them, whose number names the directory that they are pinned in. Nothing of them is read as what
/// it is not.
#[test]
fn a_run_of_a_release_with_other_maps_is_left_guarded_and_told_as_far_as_it_is_on_disk() {
    let shown = case!(47, "by a release with other maps");
    let (world, ..) = World::with_names("layout");
    let deploy = "curl -sS http://github.com/; echo ready; until [ -e go ]; do sleep 0.05; done; \
        curl -sS http://mirror.internal/; curl -sS http://github.com/; echo ended $?";
    let mut run = world
        .guard()
        .policy("mode: enforce\nrules:\n  - deny: github.com\n")
        .arg("--service=mysql")
        .start(&["sh", "-c", deploy]);
    run.running().wait_for("ready");
    let runs = world.guard().state().join("runs");
    let here = std::fs::read_dir(&runs).unwrap().flatten().next().unwrap();
    let id = here.file_name().into_string().unwrap();
    // What it did so far is on the disk soon, whatever becomes of its maps.
    let began = Instant::now();
    let kept = || std::fs::read(here.path().join("record.jsonl")).unwrap_or_default();
    let has_it = |octets: Vec<u8>| octets.windows(10).any(|it| it == b"github.com");
    while !has_it(kept()) {
        assert!(began.elapsed() < Duration::from_secs(30), "no checkpoint");
        std::thread::sleep(Duration::from_millis(50));
    }
    run.running().signal(Signal::KILL);
    let began = Instant::now();
    while run.running().try_wait().is_none() {
        assert!(began.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(10));
    }
    let rename = "set -e; found=$(find /sys/fs/bpf -type d -name 'v[0-9]*'); \
        mv \"$found\" \"${found%/*}/v1\"; echo \"$found\"";
    let renamed = world.run(&["sh", "-c", rename]).succeeds().says(&id);
    assert_eq!(renamed.stdout.lines().count(), 1, "{renamed:?}");
    // It lives: nobody takes it down, and it is not forgotten.
    let sweep = || world.guard().blackstart(&["sweep"]);
    sweep().succeeds();
    let mysql = || world.guard().arg("--service=mysql").run(&["true"]);
    mysql()
        .exits(125)
        .warns("an earlier run of mysql still goes on without its supervisor");
    assert!(!world.left_behind().is_empty());
    world.file("go", "");
    let began = Instant::now();
    while !run.running().stdout().contains("ended") {
        assert!(began.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(50));
    }
    let said = run.running().stdout();
    assert!(said.ends_with("hello from mirror\nended 6\n"), "{said}");
    // The whole of it goes once it has ended, and the next run of the service may begin.
    let began = Instant::now();
    while !world.left_behind().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(30));
        sweep();
    }
    mysql().exits(0);
    // What was on the disk is told, and that there was more.
    let report = std::fs::read_to_string(here.path().join("report.json")).unwrap();
    let report: Report = serde_json::from_str(&report).unwrap();
    let looked_up = |name: &str| report.names.iter().find(|it| it.name == name);
    assert_eq!(looked_up("github.com").unwrap().verdict, Verdict::Deny);
    assert_eq!(looked_up("mirror.internal"), None);
    assert_eq!(report.run.guarded, Guarded::Partly);
    assert!(report.coverage.unsupervised_seconds > 0.0);
    let gaps = report.coverage.gaps.iter();
    let gap = gaps
        .map(|gap| &gap.detail)
        .find(|it| it.contains("of layout"));
    assert!(
        gap.is_some_and(
            |it| it.starts_with("what happened after the last checkpoint is not known: ")
        ),
        "{:#?}",
        report.coverage.gaps
    );
    shown.is(Becomes::Kept, Held::Loosely);
}
