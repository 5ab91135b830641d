//! Nothing is missed in silence: whatever table is full, what was tried is what was recorded and what was counted as lost.
//!
//! The client says how much it tried; the report is held against that, to the last attempt.

use std::time::Duration;

use blackstart_core::report::Verdict;
use blackstart_lab::{Guarded, World, Zone};

/// A python client that tries `N` times, and says so.
fn python(code: &str, rest: &[&str]) -> Vec<String> {
    [&["/usr/bin/python3", "-c", code], rest]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect()
}

/// How much a gap says that it has counted.
fn gap(run: &Guarded, kind: &str) -> u64 {
    let gaps = run.report().coverage.gaps.iter();
    gaps.filter(|gap| gap.kind == kind)
        .map(|gap| gap.count)
        .sum()
}

/// What the rows of flows hold.
fn listed(run: &Guarded) -> u64 {
    run.report().flows.iter().map(|flow| flow.attempts).sum()
}

/// What the client said that it tried.
fn tried(run: &Guarded) -> u64 {
    run.ended.stdout.trim().parse().unwrap()
}

#[track_caller]
fn all_are_counted(run: &Guarded, tried: u64) {
    let coverage = &run.report().coverage;
    assert_eq!(coverage.attempts, tried, "{coverage:?}");
    assert_eq!(coverage.recorded + coverage.lost, tried, "{coverage:?}");
    assert_eq!(
        listed(run) + gap(run, "flow_table_full") + gap(run, "attempts_lost"),
        tried,
        "{coverage:?}"
    );
}

/// Connects to more places than there is room for: the table has 65,536 rows.
const MANY_PLACES: &str = "import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
tried = 0
for place in range(70000):
    # One and a half for each: the second of some is by the same way as the first.
    for _ in range(1 + place % 2):
        s.connect_ex((f'198.18.{place >> 15}.1', 1 + (place & 32767)))
        tried += 1
";

#[test]
fn where_the_table_of_flows_is_full() {
    let world = World::new("accounting_flows");
    world.dns(Zone::new());
    let code = format!("{MANY_PLACES}print(tried)");
    for policy in [
        "mode: observe\nrules: []\n",
        "mode: enforce\nrules:\n  - deny: 198.18.0.0/15\n",
    ] {
        let run = world
            .guard()
            .policy(policy)
            .run(&python(&code, &[]))
            .exits(0);
        all_are_counted(&run, tried(&run));
        assert!(gap(&run, "flow_table_full") > 0, "{policy}");
        assert_eq!(run.report().coverage.lost, 0, "{policy}");
    }
}

/// A claim takes its attempt out of one row and puts it into another, which may find no room.
#[test]
fn where_names_are_claimed_and_the_table_of_flows_is_full() {
    let world = World::new("accounting_claims");
    let web = world.node("web");
    web.http();
    world.dns(Zone::new());
    let code = format!(
        "{MANY_PLACES}
for i in range(400):
    s = socket.create_connection((sys.argv[1], 80))
    tried += 1
    try:
        s.sendall(b'GET / HTTP/1.1\\r\\nHost: n%d.%s\\r\\nConnection: close\\r\\n\\r\\n' % (i, [b'example', b'github.com'][i % 2]))
        while s.recv(4096): pass
    except PermissionError: pass
    s.close()
print(tried)"
    );
    let policy = "mode: enforce\nrules:\n  - deny: .github.com\n";
    let run = world
        .guard()
        .policy(policy)
        .run(&python(&code, &[&web.v4().to_string()]))
        .exits(0);
    all_are_counted(&run, tried(&run));
    // The same where there is room: each name has a row.
    let only = code.replace("range(70000)", "range(7)");
    let run = world
        .guard()
        .policy(policy)
        .run(&python(&only, &[&web.v4().to_string()]))
        .exits(0);
    all_are_counted(&run, tried(&run));
    assert_eq!(gap(&run, "flow_table_full"), 0);
    let to_web: Vec<_> = run.flows(web.v4());
    assert_eq!(to_web.len(), 400);
    let denied = to_web.iter().filter(|flow| flow.verdict == Verdict::Deny);
    assert_eq!(denied.map(|flow| flow.attempts).sum::<u64>(), 200);
}

/// Each request on a connection to a proxy is an attempt, however many are written at once.
#[test]
fn where_many_requests_go_by_one_connection() {
    let world = World::new("accounting_proxy");
    let relay = world.node("relay");
    relay.tcp_echo(8080);
    world.dns(Zone::new());
    let code = "import socket, sys, threading
s = socket.create_connection((sys.argv[1], 8080))
def drain():
    while s.recv(65536): pass
t = threading.Thread(target=drain); t.start()
tried = 1
for batch in range(30):
    heads = b''
    for i in range(100):
        n = (batch * 100 + i) % 1500
        heads += b'GET http://n%d.example/ HTTP/1.1\\r\\nHost: n%d.example\\r\\n\\r\\n' % (n, n)
        tried += 1
    s.sendall(heads)
s.shutdown(socket.SHUT_WR)
t.join()
print(tried)";
    let policy = "mode: enforce\nrules:\n  - deny: .github.com\n";
    let run = world
        .guard()
        .policy(policy)
        .run(&python(code, &[&relay.v4().to_string()]))
        .exits(0);
    assert_eq!(tried(&run), 3001);
    all_are_counted(&run, 3001);
    let asked = run
        .report()
        .flows
        .iter()
        .filter(|flow| flow.address.is_unspecified());
    let asked: Vec<_> = asked.map(|flow| flow.attempts).collect();
    assert_eq!((asked.len(), asked.iter().sum::<u64>()), (1500, 3000));
}

/// More processes than there is room for; what they do is counted, and what cannot be said is whose it was.
#[test]
fn where_the_table_of_processes_is_full() {
    let world = World::new("accounting_subjects");
    let web = world.node("web");
    web.udp_echo(7);
    world.dns(Zone::new());
    let code = "import os, socket, sys
processes = 66000
for i in range(processes):
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
for i in range(100):
    child = os.fork()
    if not child:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect((sys.argv[1], 7))
        os._exit(0)
    os.waitpid(child, 0)
print(100)";
    let run = world
        .guard()
        .run(&python(code, &[&web.v4().to_string()]))
        .exits(0);
    all_are_counted(&run, tried(&run));
    let subjects = run.report().subjects.len() as u64;
    assert_eq!(subjects + gap(&run, "subjects_lost"), 66_000 + 100 + 1);
    assert!(gap(&run, "subjects_lost") > 0);
    let coverage = &run.report().coverage;
    assert_eq!((coverage.attributed, coverage.lost), (0, 0), "{coverage:?}");
    assert_eq!(run.flow(web.v4(), 7).attempts, 100);
}

/// More names than there is room for.
#[test]
fn where_the_table_of_lookups_is_full() {
    let world = World::new("accounting_lookups");
    let names = world.bare_dns_node();
    names.udp(53, |_| Vec::new());
    let code = "import socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], 53))
for i in range(40000):
    name = b'n%d' % i
    wire = bytes([len(name)]) + name + b'\\4many\\7example\\0'
    s.send(struct.pack('>6H', i, 256, 1, 0, 0, 0) + wire + struct.pack('>2H', 1, 1))
print(40000)";
    let run = world
        .guard()
        .run(&python(code, &[&names.v4().to_string()]))
        .exits(0);
    let listed: u64 = run.report().names.iter().map(|name| name.queries).sum();
    assert_eq!(listed + gap(&run, "queries_lost"), tried(&run));
    assert!(gap(&run, "queries_lost") > 0);
    // And the one attempt at the server.
    all_are_counted(&run, 1);
}

/// More unix sockets than there is room for.
#[test]
fn where_the_table_of_unix_sockets_is_full() {
    let world = World::new("accounting_unix");
    world.dns(Zone::new());
    let code = "import socket
tried = 0
for i in range(5000):
    for _ in range(1 + i % 2):
        socket.socket(socket.AF_UNIX).connect_ex('\\0accounting-%d' % i)
        tried += 1
print(tried)";
    let run = world.guard().run(&python(code, &[])).exits(0);
    let listed: u64 = run.report().delegates.iter().map(|one| one.attempts).sum();
    assert_eq!(listed + gap(&run, "delegates_lost"), tried(&run));
    assert!(gap(&run, "delegates_lost") > 0);
}

/// Threads that share sockets of a kind which no lock guards.
#[test]
fn where_threads_share_a_socket() {
    let world = World::new("accounting_threads");
    let web = world.node("web");
    web.udp_echo(7);
    world.dns(Zone::new());
    let code = "import socket, sys, threading
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
def send(own):
    for i in range(3000):
        s.sendto(b'x', (sys.argv[1], 7 if i % 3 else own))
threads = [threading.Thread(target=send, args=(100 + n,)) for n in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
print(8 * 3000)";
    let run = world
        .guard()
        .run(&python(code, &[&web.v4().to_string()]))
        .exits(0)
        .within(Duration::from_secs(120));
    all_are_counted(&run, tried(&run));
    assert_eq!(gap(&run, "flow_table_full"), 0);
    assert_eq!(run.flow(web.v4(), 7).attempts, 8 * 2000);
}
