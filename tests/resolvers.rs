//! Lookups that go other ways than straight to a name server.

use std::time::Duration;

use blackstart_core::report::Verdict;
use blackstart_lab::dns::plain_answer;
use blackstart_lab::shown::Judged as _;
use blackstart_lab::{Becomes, Dns, Guarded, Node, World, Zone, case};

const PYTHON: [&str; 2] = ["/usr/bin/python3", "-c"];

/// Sends a query for `NAME`, of type `TYPE`, and prints the code of the answer.
const ASK: &str = "import socket, struct
def query(name, kind=1, number=7):
    wire = b''.join(bytes([len(l)]) + l for l in name.encode().split(b'.')) + b'\\0'
    return struct.pack('>6H', number, 256, 1, 0, 0, 0) + wire + struct.pack('>2H', kind, 1)
def answer(s, server, message):
    s.settimeout(2)
    s.sendto(message, server)
    return s.recv(4096)
";

fn python(code: &str, rest: &[&str]) -> Vec<String> {
    let code = format!("{ASK}{code}");
    [&PYTHON[..], &[&code], rest]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_stub_on_loopback_is_judged_as_the_server_that_it_is_for_the_run() {
    let shown = case!(7);
    let world = World::new("stub");
    let (github, mirror) = (world.node("github"), world.node("mirror"));
    github.http();
    mirror.http();
    let dns = world.dns(
        Zone::new()
            .host("github.com", &github)
            .host("mirror.internal", &mirror),
    );
    let _stub = world.stub(&dns, "mirror.internal");
    shown.outside(&world.run(&["curl", "-sS", "http://github.com/"]));
    for policy in [
        "mode: enforce\nrules:\n  - deny: github.com\n",
        "mode: enforce\ndefault: deny\nrules:\n  - allow: mirror.internal\n",
    ] {
        let run = world
            .guard()
            .policy(policy)
            .run(&["curl", "-sS", "http://github.com/"])
            .exits(6);
        assert_eq!(run.verdict_on("github.com"), Verdict::Deny);
        shown.refused(&run);
        let run = world
            .guard()
            .policy(policy)
            .run(&["curl", "-sS", "http://mirror.internal/"])
            .exits(0)
            .says("hello from mirror");
        let reached: Vec<_> = run
            .report()
            .flows
            .iter()
            .filter(|flow| flow.port == 80 && flow.protocol == "tcp")
            .map(|flow| flow.name.as_deref())
            .collect();
        assert!(
            reached.contains(&Some("mirror.internal")),
            "{:#?}",
            run.report().flows
        );
    }
}

#[test]
fn names_that_are_asked_of_a_whole_network_are_attempts_at_its_address() {
    let passed = case!(10, "LLMNR and mDNS, by a deny-list");
    let denied = case!(10, "LLMNR and mDNS, by an allow-list");
    let world = World::new("mdns");
    world.dns(Zone::new());
    // mDNS (RFC 6762) and LLMNR (RFC 4795), as tools speak them themselves.
    for (group, port) in [("224.0.0.251", "5353"), ("224.0.0.252", "5355")] {
        let code = "import sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(sys.argv[3]))
try: s.sendto(query('printer.local'), (sys.argv[1], int(sys.argv[2]))); print('sent')
except OSError as e: print('refused')";
        let line = python(code, &[group, port, &world.host().v4().to_string()]);
        let bare = world.run(&line).says("sent");
        passed.outside(&bare);
        denied.outside(&bare);
        let group: std::net::Ipv4Addr = group.parse().unwrap();
        let port: u16 = port.parse().unwrap();
        let run = world.guard().run(&line).exits(0).says("sent");
        let flow = run.flow(group, port);
        assert_eq!(flow.verdict, Verdict::Allow);
        assert!(run.chain(flow.subject)[0].contains("python3"));
        passed.recorded(&run);
        let run = world
            .guard()
            .policy("mode: enforce\ndefault: deny\nrules:\n  - allow: .local\n")
            .run(&line)
            .exits(0)
            .says("refused");
        assert_eq!(run.flow(group, port).verdict, Verdict::Deny);
        denied.refused(&run);
    }
}

#[test]
fn lookups_on_another_port_are_attempts_at_that_server() {
    let passed = case!(14, "by a rule about the name");
    let listed = case!(14, "by an allow-list");
    let by_port = case!(14, "by a rule about the port");
    let world = World::new("other_port");
    let (github, names) = (world.node("github"), world.node("names"));
    world.dns(Zone::new());
    let of_github = github.v4();
    names.udp(8600, move |query| vec![plain_answer(query, of_github)]);
    let look = [
        "dig".to_owned(),
        "+short".to_owned(),
        "+noedns".to_owned(),
        "+tries=1".to_owned(),
        "+timeout=2".to_owned(),
        "-p".to_owned(),
        "8600".to_owned(),
        format!("@{}", names.v4()),
        "github.com".to_owned(),
    ];
    let bare = world.run(&look).says(&of_github.to_string());
    for case in [&passed, &listed, &by_port] {
        case.outside(&bare);
    }
    // The name is not read there: it is a datagram like any other, by the process that sent it.
    let run = world
        .guard()
        .policy("mode: enforce\nrules:\n  - deny: github.com\n")
        .run(&look)
        .exits(0)
        .says(&of_github.to_string());
    let flow = run.flow(names.v4(), 8600);
    assert!(run.chain(flow.subject)[0].contains("dig"));
    passed.recorded(&run);
    // What it gave is no lease: under an allow-list neither the server nor the address is reached.
    let run = world
        .guard()
        .policy("mode: enforce\ndefault: deny\nrules:\n  - allow: github.com\n")
        .run(&look);
    assert_ne!(run.ended.code, 0);
    assert_eq!(run.flow(names.v4(), 8600).verdict, Verdict::Deny);
    listed.refused(&run);
    // A rule about that port refuses it under a deny-list as well.
    let run = world
        .guard()
        .policy("mode: enforce\nrules:\n  - deny: \"*:8600\"\n")
        .run(&look);
    assert_ne!(run.ended.code, 0);
    assert_eq!(run.flow(names.v4(), 8600).verdict, Verdict::Deny);
    by_port.refused(&run);
}

#[test]
fn data_in_lookups_below_an_allowed_name_is_in_the_record() {
    let shown = case!(17);
    let world = World::new("tunnel");
    let web = world.node("web");
    let dns = world.dns(
        Zone::new()
            .below("allowed.example", &web)
            .txt("reply.allowed.example", "data that comes back"),
    );
    let server = dns.address().to_string();
    let code = "import sys
server = (sys.argv[1], 53)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for i, part in enumerate(['736563726574', '666f7220796f75']):
    answer(s, server, query(part + '.allowed.example', 1, i))
print(answer(s, server, query('reply.allowed.example', 16, 9)))
answer(s, server, query('odd.allowed.example', 10, 10))";
    let line = python(code, &[&server]);
    shown.outside(&world.run(&line).says("data that comes back"));
    for held in ["--contain", "--no-contain"] {
        let run = world
            .guard()
            .policy("mode: enforce\ndefault: deny\nrules:\n  - allow: .allowed.example\n")
            .arg(held)
            .run(&line)
            .exits(0)
            .says("data that comes back");
        is_in_the_record(&run);
        shown.recorded(&run);
    }
}

/// Where no name below is allowed, nothing goes out: neither what would be asked nor what would come back.
#[test]
fn data_in_lookups_below_a_name_that_is_not_allowed_goes_nowhere() {
    let shown = case!(17, "below a name that is not allowed");
    let world = World::new("tunnel_denied");
    let web = world.node("web");
    let dns = world.dns(
        Zone::new()
            .below("tunnel.example", &web)
            .txt("reply.tunnel.example", "data that comes back"),
    );
    let server = dns.address().to_string();
    let code = "import sys
server = (sys.argv[1], 53)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for kind, name in [(1, '736563726574'), (16, 'reply'), (10, 'odd'), (255, 'any'), (65, 'bound')]:
    try: print(name, b'data' in answer(s, server, query(name + '.tunnel.example', kind)))
    except OSError: print(name, 'nothing')";
    let line = python(code, &[&server]);
    shown.outside(&world.run(&line).says("reply True"));
    let asked = dns.seen().len();
    for held in ["--contain", "--no-contain"] {
        for policy in [
            "mode: enforce\ndefault: deny\nrules:\n  - allow: other.example\n",
            "mode: enforce\ndefault: deny\nrules:\n  - allow: \"*.other.example\"\n  - deny: .tunnel.example\n",
        ] {
            let run = world.guard().policy(policy).arg(held).run(&line).exits(0);
            assert!(!run.ended.stdout.contains("True"), "{run:?}");
            for name in ["736563726574", "reply", "odd", "any", "bound"] {
                let name = format!("{name}.tunnel.example");
                assert_eq!(run.verdict_on(&name), Verdict::Deny, "{name}");
            }
            shown.refused(&run);
        }
    }
    assert_eq!(dns.seen().len(), asked, "nothing reached the server");
}

fn is_in_the_record(run: &Guarded) {
    for (name, kind) in [
        ("736563726574.allowed.example", "A"),
        ("666f7220796f75.allowed.example", "A"),
        ("reply.allowed.example", "TXT"),
        ("odd.allowed.example", "TYPE10"),
    ] {
        let found = run.lookups(name);
        assert_eq!(found.len(), 1, "{name}: {:#?}", run.report().names);
        assert_eq!(found[0].qtype, kind);
        assert!(run.chain(found[0].subject)[0].contains("python3"));
    }
}

#[test]
fn an_allowed_name_opens_no_address_that_is_denied() {
    let shown = case!(18, "where a rule denies the address");
    let world = World::new("rebinding");
    let inner = world.node("inner");
    inner.http();
    let metadata: std::net::Ipv4Addr = [169, 254, 169, 254].into();
    inner.add_address(metadata.into());
    world
        .host()
        .command(&[
            "ip",
            "route",
            "add",
            "169.254.169.254",
            "via",
            &inner.v4().to_string(),
        ])
        .status()
        .unwrap();
    world.dns(
        Zone::new()
            .a("rebound.example", metadata)
            .a("inward.example", inner.v4()),
    );
    let curl = |name: &str| {
        ["curl", "-sS", "-m", "5"]
            .map(str::to_owned)
            .into_iter()
            .chain([format!("http://{name}/")])
            .collect::<Vec<_>>()
    };
    for (name, address) in [
        ("rebound.example", metadata),
        ("inward.example", inner.v4()),
    ] {
        shown.outside(&world.run(&curl(name)).says("hello from inner"));
        for held in ["--contain", "--no-contain"] {
            let run = world
                .guard()
                .policy(&format!(
                    "mode: enforce\ndefault: deny\nrules:\n  - allow: {name}\n  - deny: {address}\n"
                ))
                .arg(held)
                .run(&curl(name))
                .exits(7);
            assert_eq!(run.verdict_on(name), Verdict::Allow);
            assert_eq!(run.flow(address, 80).verdict, Verdict::Deny);
            assert_eq!(run.flow(address, 80).rule, format!("deny {address}"));
            shown.refused(&run);
        }
    }
}

#[test]
fn a_query_in_memory_that_can_still_be_written_to_is_refused() {
    let shown = case!(69, "a query in memory that is not copied");
    let world = World::new("zerocopy");
    let web = world.node("web");
    let dns = world.dns(Zone::new().host("allowed.example", &web));
    let server = dns.address().to_string();
    // linux/socket.h: MSG_ZEROCOPY; asm-generic/socket.h: SO_ZEROCOPY.
    let code = "import sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 60, 1)
s.settimeout(2)
s.connect((sys.argv[1], 53))
message = bytearray(query('allowed.example'))
try:
    s.sendmsg([message], [], 0x4000000)
    print('answered', len(s.recv(4096)) > len(message))
except OSError as e:
    print('refused', e.errno)";
    let line = python(code, &[&server]);
    shown.outside(&world.run(&line).says("answered True"));
    let policy = "mode: enforce\nrules:\n  - deny: denied.example\n";
    for held in ["--no-contain", "--contain"] {
        let run = world
            .guard()
            .policy(policy)
            .arg(held)
            .run(&line)
            .exits(0)
            .says("refused 1");
        shown.is(Becomes::Refused, run.held());
    }
    // The same query in memory of the kernel's own.
    let copied = python(&code.replace("0x4000000", "0"), &[&server]);
    world
        .guard()
        .policy(policy)
        .run(&copied)
        .exits(0)
        .says("answered True");
}

/// The same by way of a pipe: what is in it is the process's own memory.
#[test]
fn a_query_that_a_pipe_lends_is_refused() {
    let shown = case!(69, "a query by vmsplice and splice");
    let world = World::new("spliced");
    let web = world.node("web");
    let dns = world.dns(Zone::new().host("allowed.example", &web));
    let server = dns.address().to_string();
    let code = "import ctypes, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], 53))
message = query('allowed.example')
memory = mmap.mmap(-1, 4096)
memory.write(message)
at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
r, w = os.pipe()
vector = struct.pack('@PN', at, len(message))
assert libc.vmsplice(w, vector, 1, 0) == len(message)
try:
    os.splice(r, s.fileno(), len(message))
    s.settimeout(2)
    print('answered', len(s.recv(4096)) > len(message))
except OSError as e:
    print('refused', e.errno)";
    let line = python(code, &[&server]);
    shown.outside(&world.run(&line).says("answered True"));
    for held in ["--no-contain", "--contain"] {
        let run = world
            .guard()
            .policy("mode: enforce\nrules:\n  - deny: denied.example\n")
            .arg(held)
            .run(&line)
            .exits(0)
            .says("refused");
        shown.is(Becomes::Refused, run.held());
    }
}

#[test]
fn two_processes_with_one_query_id_have_each_its_own_answer() {
    let shown = case!(24);
    let world = World::new("one_id");
    let (one, other) = (world.node("one"), world.node("other"));
    let dns = world.dns(
        Zone::new()
            .host("one.example", &one)
            .host("other.example", &other)
            .slow("one.example", Duration::from_millis(200))
            .slow("other.example", Duration::from_millis(200)),
    );
    let server = dns.address().to_string();
    let code = "import sys, os
for turn in range(5):
    for name in ['one.example', 'other.example']:
        if not os.fork():
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            got = answer(s, (sys.argv[1], 53), query(name, 1, 0))
            s = socket.socket()
            s.settimeout(2)
            error = s.connect_ex((socket.inet_ntoa(got[-4:]), 9))
            print(name, error, flush=True)
            os._exit(0)
    while True:
        try: os.wait()
        except ChildProcessError: break";
    let bare = world.run(&python(code, &[&server]));
    // Nobody listens there: what is refused outside is refused by the other machine.
    assert_eq!(
        bare.stdout.matches("other.example 111").count(),
        5,
        "{bare:?}"
    );
    shown.outside(&bare);
    for held in ["--contain", "--no-contain"] {
        let run = world
            .guard()
            .policy("mode: enforce\ndefault: deny\nrules:\n  - allow: one.example\n")
            .arg(held)
            .run(&python(code, &[&server]))
            .exits(0);
        has_each_its_own(&run, &one, &other);
        shown.refused(&run);
    }
}

fn has_each_its_own(run: &Guarded, one: &Node, other: &Node) {
    assert_eq!(run.verdict_on("one.example"), Verdict::Allow);
    assert_eq!(run.verdict_on("other.example"), Verdict::Deny);
    let to: Vec<_> = run
        .flows(one.v4())
        .iter()
        .map(|flow| (flow.name.clone(), flow.verdict))
        .collect();
    assert!(
        !to.is_empty()
            && to
                .iter()
                .all(|flow| *flow == (Some("one.example".to_owned()), Verdict::Allow)),
        "{to:?}"
    );
    assert!(run.flows(other.v4()).is_empty());
}

#[test]
fn an_address_may_be_used_past_the_time_of_its_answer() {
    let shown = case!(22, "an address past the time of its answer");
    let world = World::new("past_ttl");
    let web = world.node("web");
    web.tcp_echo(7);
    world.dns(
        Zone::new()
            .a("short.example", web.v4())
            .ttl("short.example", 0),
    );
    // Seconds after the answer's time is over: a connection pool, or a client that resolves once.
    let code = "import socket, time
at = socket.getaddrinfo('short.example', 7, socket.AF_INET)[0][4]
time.sleep(1.5)
socket.create_connection(at).close()
print('reached')";
    shown.outside(&world.run(&["/usr/bin/python3", "-c", code]));
    let run = world
        .guard()
        .policy("mode: enforce\ndefault: deny\nrules:\n  - allow: short.example\n")
        .run(&["/usr/bin/python3", "-c", code])
        .exits(0)
        .says("reached");
    assert_eq!(run.flow(web.v4(), 7).name.as_deref(), Some("short.example"));
    shown.recorded(&run);
}

/// What is asked in them is not read: they are connections to their servers, which is said of each run.
#[test]
fn lookups_over_tls_and_https_are_connections_to_their_servers() {
    let tls = case!(16, "DNS over TLS, by a rule about the name");
    let tls_listed = case!(16, "DNS over TLS, by an allow-list");
    let https = case!(15, "by a rule about the name");
    let https_denied = case!(15, "by a rule about its server");
    let https_listed = case!(15, "by an allow-list");
    let world = World::new("encrypted");
    let (github, names) = (world.node("github"), world.node("names"));
    github.http_on(8000);
    let authority = world.authority();
    let of_github = github.v4();
    let answer = move |query: &[u8]| plain_answer(query, of_github);
    names.names_over_tls(&authority, &["names.example"], answer);
    names.names_over_https(&authority, &["names.example"], answer);
    world.dns(Zone::new().a("names.example", names.v4()));
    let dig = ["dig", "+tls", "+short", "+noedns", "+tries=1", "+timeout=3"];
    let dig: Vec<String> = dig
        .map(str::to_owned)
        .into_iter()
        .chain([format!("@{}", names.v4()), "github.com".to_owned()])
        .collect();
    let curl = [
        "curl",
        "-sS4",
        "-m",
        "10",
        "--doh-url",
        "https://names.example/dns-query",
        "http://github.com:8000/",
    ];
    let bare = world.run(&dig).says(&of_github.to_string());
    tls.outside(&bare);
    tls_listed.outside(&bare);
    let bare = world.run(&curl).says("hello from github");
    for case in [&https, &https_denied, &https_listed] {
        case.outside(&bare);
    }
    for held in ["--no-contain", "--contain"] {
        let guard = |policy: &str| world.guard().policy(policy).arg(held);
        let by_name = "mode: enforce\nrules:\n  - deny: github.com\n";
        let run = guard(by_name)
            .run(&dig)
            .exits(0)
            .says(&of_github.to_string());
        let flow = run.flow(names.v4(), 853);
        assert_eq!(flow.verdict, Verdict::Allow);
        assert!(run.chain(flow.subject)[0].starts_with("dig +tls"));
        tls.gap(&run, "unseen_lookups");
        let run = guard(by_name).run(&curl).exits(0).says("hello from github");
        let flow = run.flow(names.v4(), 443);
        assert_eq!(flow.name.as_deref(), Some("names.example"));
        assert_eq!(run.flow(of_github, 8000).name, None);
        assert!(run.gaps().contains("unnamed_addresses"), "{:?}", run.gaps());
        https.gap(&run, "unseen_lookups");
        let run = guard("mode: enforce\nrules:\n  - deny: names.example\n").run(&curl);
        assert!((1..120).contains(&run.ended.code), "{run:?}");
        https_denied.refused(&run);
        let listed = "mode: enforce\ndefault: deny\nrules:\n  - allow: github.com\n";
        let run = guard(listed).run(&dig);
        assert_eq!(run.flow(names.v4(), 853).verdict, Verdict::Deny);
        tls_listed.refused(&run);
        let run = guard(listed).run(&curl);
        assert_eq!(run.verdict_on("names.example"), Verdict::Deny);
        https_listed.refused(&run);
    }
}

#[test]
fn several_queries_in_one_buffer_are_refused() {
    let shown = case!(68);
    let world = World::new("segments");
    let web = world.node("web");
    let dns = world.dns(Zone::new().below("internal", &web));
    // linux/udp.h: SOL_UDP, UDP_SEGMENT. Both queries are of one length.
    let code = "import sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(2)
s.connect((sys.argv[1], 53))
one, two = query('one.internal', 1, 1), query('two.internal', 1, 2)
s.setsockopt(17, 103, len(one))
try:
    s.send(one + two)
    print('answered', *sorted(s.recv(512)[1] for _ in range(2)))
except OSError as e:
    print('refused', e.errno)";
    let line = python(code, &[&dns.address().to_string()]);
    shown.outside(&world.run(&line).says("answered 1 2"));
    let asked = || {
        let seen = dns.seen();
        seen.iter().filter(|one| one.name == "two.internal").count()
    };
    for held in ["--no-contain", "--contain"] {
        for policy in [
            "mode: enforce\nrules:\n  - deny: two.internal\n",
            "mode: enforce\ndefault: deny\nrules:\n  - allow: one.internal\n",
        ] {
            let run = world
                .guard()
                .policy(policy)
                .arg(held)
                .run(&line)
                .exits(0)
                .says("refused");
            shown.is(Becomes::Refused, run.held());
            assert_eq!(asked(), 1, "only outside");
        }
    }
}

/// The same over QUIC, which only a port tells from any other datagrams.
#[test]
fn lookups_over_quic_are_told_and_refused_by_a_rule_or_an_allow_list() {
    let by_name = case!(16, "DNS over QUIC, by a rule about the name");
    let by_port = case!(16, "DNS over QUIC, by a rule about its port");
    let listed = case!(16, "DNS over QUIC, by an allow-list");
    let world = World::new("doq");
    let (github, names) = (world.node("github"), world.node("names"));
    let zone = Zone::new().host("github.com", &github);
    let asked = Dns::start_over_quic(&names, zone, &world.authority(), &["names.example"]);
    world.dns(Zone::new());
    let (at, of_github) = (names.v4().to_string(), github.v4().to_string());
    let look = [
        env!("CARGO_BIN_EXE_blackstart-doq"),
        &at,
        "names.example",
        "github.com",
    ];
    let bare = world.run(&look).says(&of_github);
    for case in [&by_name, &by_port, &listed] {
        case.outside(&bare);
    }
    assert_eq!(asked.seen().len(), 1);
    for held in ["--no-contain", "--contain"] {
        let guard = |policy: &str| world.guard().policy(policy).arg(held);
        let run = guard("mode: enforce\nrules:\n  - deny: github.com\n")
            .run(&look)
            .exits(0)
            .says(&of_github);
        let [found] = run.findings("encrypted_dns")[..] else {
            panic!("{:#?}", run.report().findings)
        };
        assert!(found.title.contains(&format!("{at}:853")), "{found:?}");
        assert!(run.chain(found.subjects.first().copied())[0].contains("blackstart-doq"));
        by_name.recorded(&run);
        for (policy, shown) in [
            (
                "mode: enforce\nrules:\n  - { deny: \"*:853\", protocol: udp }\n",
                &by_port,
            ),
            (
                "mode: enforce\ndefault: deny\nrules:\n  - allow: github.com\n",
                &listed,
            ),
        ] {
            let run = guard(policy).run(&look).exits(1);
            assert_eq!(run.flow(names.v4(), 853).verdict, Verdict::Deny);
            assert!(run.findings("encrypted_dns").is_empty());
            shown.refused(&run);
        }
    }
    assert_eq!(asked.seen().len(), 3, "nothing came of what was refused");
}

/// Who may bind port 53 of loopback answers itself what it likes: that is no server of the run's.
#[test]
fn who_answers_its_own_lookups_learns_no_address() {
    let shown = case!(70);
    let world = World::new("own_server");
    let inner = world.node("inner");
    inner.tcp_echo(7);
    world.dns(Zone::new());
    let code = "import sys, threading
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(('127.0.0.1', 53))
def serve():
    asked, who = server.recvfrom(512)
    server.sendto(asked[:2] + b'\\x81\\x80\\0\\1\\0\\1\\0\\0\\0\\0' + asked[12:] + b'\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4'
        + socket.inet_aton(sys.argv[1]), who)
threading.Thread(target=serve, daemon=True).start()
try:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    at = socket.inet_ntoa(answer(s, ('127.0.0.1', 53), query('allowed.example'))[-4:])
    socket.create_connection((at, 7), 3).close()
    print('reached', at)
except OSError as e:
    print('refused', e.errno)";
    let line = python(code, &[&inner.v4().to_string()]);
    let reached = format!("reached {}", inner.v4());
    shown.outside(&world.run(&line).says(&reached));
    for held in ["--no-contain", "--contain"] {
        let run = world
            .guard()
            .policy("mode: enforce\ndefault: deny\nrules:\n  - allow: allowed.example\n")
            .arg(held)
            .run(&line)
            .exits(0);
        assert!(!run.ended.stdout.contains("reached"), "{run:?}");
        shown.is(Becomes::Refused, run.held());
    }
}

#[test]
fn lookups_in_tls_are_told_where_rules_are_by_name() {
    let (world, github, mirror) = World::with_names("encrypted");
    mirror.tcp_echo(853);
    let rules = "rules:\n  - deny: github.com\n";
    // No answer comes, but the question went out of sight.
    let ask = format!(
        "dig +tls +tries=1 +time=2 @{} github.com; true",
        mirror.v4()
    );
    let run = world
        .guard()
        .policy(rules)
        .run(&["sh", "-c", &ask])
        .exits(0);
    let [found] = run.findings("encrypted_dns")[..] else {
        panic!("{:#?}", run.report().findings)
    };
    let wanted = format!(
        "dig reached {}:853, where lookups are encrypted",
        mirror.v4()
    );
    assert!(found.title.starts_with(&wanted), "{found:?}");
    assert!(run.chain(found.subjects.first().copied())[0].starts_with("dig +tls"));
    run.warns("where lookups are encrypted");

    // Where nobody listens nothing is asked, and without rules by name nothing is missed.
    let nobody = format!(
        "dig +tls +tries=1 +time=2 @{} github.com; true",
        github.v4()
    );
    let run = world
        .guard()
        .policy(rules)
        .run(&["sh", "-c", &nobody])
        .exits(0);
    assert!(run.findings("encrypted_dns").is_empty());
    let run = world.guard().run(&["sh", "-c", &ask]).exits(0);
    assert!(run.findings("encrypted_dns").is_empty());
}

#[test]
fn a_known_resolver_over_https_is_told_and_any_other_server_is_not() {
    let world = World::new("over_https");
    let mut zone = Zone::new();
    let authority = world.authority();
    for (node, name) in [("doh", "dns.google"), ("www", "www.google.com")] {
        let node = world.node(node);
        node.https(&authority, &[name]);
        zone = zone.host(name, &node);
    }
    world.dns(zone);
    let fetch = "curl -sSk https://dns.google/dns-query; curl -sSk https://www.google.com/";
    let guard = || world.guard().policy("rules:\n  - deny: github.com\n");
    let run = guard().run(&["sh", "-c", fetch]).exits(0);
    let found = run.findings("encrypted_dns");
    let titles: Vec<_> = found.iter().map(|it| it.title.as_str()).collect();
    assert_eq!(
        titles,
        [
            "curl reached dns.google:443, where lookups are encrypted: rules by name do not know what it asked for there"
        ]
    );
    // Denied it is refused, and told as that.
    let denied = format!(
        "mode: enforce\ninclude: [{}]\nrules:\n  - deny: github.com\n",
        concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../policies/encrypted-dns.yaml"
        )
    );
    let run = world.guard().policy(&denied).run(&["sh", "-c", fetch]);
    assert!(run.findings("encrypted_dns").is_empty());
    assert_eq!(run.verdict_on("dns.google"), Verdict::Deny);
    assert_eq!(run.verdict_on("www.google.com"), Verdict::Allow);
}
