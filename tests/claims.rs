//! Where one address serves several names: what a connection says of itself (TLS, HTTP) is judged.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use blackstart_core::report::{Attribution, Outcome, Verdict};
use blackstart_lab::client::{asks, claim, reach};
use blackstart_lab::shown::Shown;
use blackstart_lab::{Dns, Guarded, World, Zone, case};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// "At once": a generous bound for a loaded test machine, far below any patience of TCP's.
const AT_ONCE: Duration = Duration::from_secs(4);

const DENY: &str = "mode: enforce\nrules:\n  - deny: .github.com\n";

#[test]
fn a_denied_name_on_an_allowed_address_is_refused_at_once() {
    let shown = case!(28, "the name in TLS");
    let world = World::new("claims_tls");
    let cdn = world.node("cdn");
    let authority = world.authority();
    let web = cdn.https(&authority, &["docs.example", "github.com"]);
    world.dns(Zone::new().host("docs.example", &cdn));
    let at = |name: &str| format!("{name}:443:{}", cdn.v4());
    // Outside the one name is as good as the other.
    let denied = [
        "curl",
        "-sS",
        "--resolve",
        &at("github.com"),
        "https://github.com/",
    ];
    shown.outside(&world.run(&denied));
    let before = web.seen().len();
    let run = world
        .guard()
        .policy(DENY)
        .run(&denied)
        .exits(35)
        .within(AT_ONCE);
    assert_eq!(web.seen().len(), before, "nothing came through");
    let flow = run.flow(cdn.v4(), 443);
    assert_eq!(
        (flow.verdict, flow.name.as_deref(), flow.rule.as_str()),
        (Verdict::Deny, Some("github.com"), "deny .github.com")
    );
    assert_eq!((flow.attempts, flow.outcome), (1, Outcome::Refused));
    assert_eq!(run.subject(flow.subject).argv[0], "curl");
    assert!(run.gaps().is_empty(), "{:?}", run.gaps());
    shown.refused(&run);
    // The other name on the same address, in the same run.
    let both = format!(
        "curl -sS4 https://docs.example/ && ! curl -sS --resolve {} https://github.com/",
        at("github.com")
    );
    let run = world
        .guard()
        .policy(DENY)
        .run(&["sh", "-c", &both])
        .exits(0)
        .says("hello from cdn");
    let mut flows: Vec<_> = run
        .flows(cdn.v4())
        .into_iter()
        .filter(|flow| flow.protocol == "tcp")
        .map(|flow| (flow.name.as_deref(), flow.verdict, flow.attempts))
        .collect();
    flows.sort_by_key(|(name, ..)| name.map(str::to_owned));
    assert_eq!(
        flows,
        [
            (Some("docs.example"), Verdict::Allow, 1),
            (Some("github.com"), Verdict::Deny, 1)
        ]
    );
    // For the record only, it passes.
    let run = world
        .guard()
        .policy("mode: observe\nrules:\n  - deny: .github.com\n")
        .run(&denied)
        .exits(0);
    let flow = run.flow(cdn.v4(), 443);
    assert_eq!(
        (flow.verdict, flow.outcome, flow.attribution),
        (Verdict::WouldDeny, Outcome::Connected, Attribution::Exact)
    );
    // Nothing is read that nobody wants to know.
    let run = world
        .guard()
        .policy("mode: enforce\ninspect: []\nrules:\n  - deny: .github.com\n")
        .run(&denied)
        .exits(0);
    assert_eq!(run.flow(cdn.v4(), 443).name, None);
}

/// Each way to send is tried outside, where it works, then with a denied name, and with another one.
fn refused_and_passed(way: &str, shown: &Shown) {
    let world = World::new(&format!("claims_{way}"));
    let cdn = world.node("cdn");
    let tls = way.starts_with("tls");
    let (port, web) = if tls {
        (443, cdn.https(&world.authority(), &["docs.example"]))
    } else {
        (80, cdn.http())
    };
    let denied = claim(way, cdn.v4(), port, &["api.github.com"]);
    shown.outside(&world.run(&denied).says("hello from cdn"));
    let before = web.seen().len();
    for held in ["--no-contain", "--contain"] {
        let run = world
            .guard()
            .policy(DENY)
            .arg(held)
            .run(&denied)
            .exits(1)
            .says("EACCES")
            .within(AT_ONCE);
        assert_eq!(web.seen().len(), before, "nothing came through");
        let flow = run.flow(cdn.v4(), port);
        assert_eq!(
            (flow.verdict, flow.name.as_deref()),
            (Verdict::Deny, Some("api.github.com")),
            "{way}"
        );
        shown.refused(&run);
    }
    let run = world
        .guard()
        .policy(DENY)
        .run(&claim(way, cdn.v4(), port, &["docs.example"]))
        .exits(0)
        .says("hello from cdn");
    let flow = run.flow(cdn.v4(), port);
    assert_eq!(
        (flow.verdict, flow.name.as_deref(), flow.outcome),
        (Verdict::Allow, Some("docs.example"), Outcome::Connected),
        "{way}"
    );
    assert!(run.gaps().is_empty(), "{way}: {:?}", run.gaps());
}

#[test]
fn a_hello_is_read_however_it_is_cut_and_however_large_it_is() {
    let shown = case!(28, "the name in TLS, cut or late in its hello");
    for way in ["tls", "tls-octets", "tls-large"] {
        refused_and_passed(way, &shown);
    }
}

#[test]
fn a_request_is_read_however_it_is_sent() {
    let shown = case!(28, "the name in HTTP");
    for way in ["host", "host-octets"] {
        refused_and_passed(way, &shown);
    }
    let by_pipe = case!(35, "splice and sendfile of a denied name's request");
    for way in ["sendfile", "splice"] {
        refused_and_passed(way, &by_pipe);
    }
}

#[test]
fn each_request_of_a_connection_is_read() {
    let shown = case!(28, "the name in a later request of a connection");
    let by_a_list = case!(
        28,
        "the name in a later request of a connection, by an allow-list"
    );
    let unread = case!(
        28,
        "the name behind a request of which nobody knows where it ends"
    );
    let world = World::new("claims_later");
    let cdn = world.node("cdn");
    cdn.tcp_echo(80);
    let names = ["docs.example", "other.example", "github.com"];
    world.dns(
        names
            .iter()
            .fold(Zone::new(), |zone, name| zone.a(name, cdn.v4())),
    );
    let head = |name: &str| format!("GET / HTTP/1.1\\r\\nHost: {name}\\r\\n\\r\\n");
    let [docs, other, denied] = names.map(head);
    let body = "POST / HTTP/1.1\\r\\nHost: docs.example\\r\\nContent-Length: 4\\r\\n\\r\\nbody";
    let asked = |heads: &[&str]| asks("docs.example", 80, heads);
    // Nobody is there who could be told at once, and then the connection is over.
    let lines = |answered: usize, refused: &[&str]| {
        let refused = refused.iter().map(|error| format!("{error}\n"));
        format!(
            "{}{}",
            "answered\n".repeat(answered),
            refused.collect::<String>()
        )
    };
    let all = asked(&[&docs, body, &docs, &denied, &docs]);
    let bare = world.run(&all).says(&lines(5, &[]));
    let upgrade = "GET / HTTP/1.1\\r\\nHost: docs.example\\r\\nUpgrade: other\\r\\n\\r\\n";
    let upgraded = asked(&[upgrade, &denied]);
    unread.outside(&world.run(&upgraded).says(&lines(2, &[])));
    let allows =
        "mode: enforce\ndefault: deny\nrules:\n  - allow: docs.example\n  - allow: other.example\n";
    // A lookup by every name, so that the address has them all.
    let looked_up = |policy: &str, line: &[String]| {
        let script = "for name in docs.example other.example github.com; do getent hosts $name >/dev/null; done; exec \"$@\"";
        let shell = ["sh", "-c", script, "sh"].map(str::to_owned);
        world
            .guard()
            .policy(policy)
            .run(&[&shell[..], line].concat())
            .exits(0)
    };
    let at_80 = |run: &Guarded| -> BTreeSet<(Option<String>, bool, u64)> {
        let flows = run.flows(cdn.v4()).into_iter();
        flows
            .map(|flow| {
                let refused = flow.verdict == Verdict::Deny;
                (flow.name.clone(), refused, flow.attempts)
            })
            .collect()
    };
    let told = |expected: &[(Option<&str>, bool, u64)]| -> BTreeSet<_> {
        let each = expected.iter();
        each.map(|(name, refused, times)| (name.map(str::to_owned), *refused, *times))
            .collect()
    };
    let (of_docs, of_denied) = (
        (Some("docs.example"), false, 1),
        (Some("github.com"), true, 1),
    );
    for (policy, shown, gap) in [
        (DENY, &shown, "claims_later"),
        (allows, &by_a_list, "claims_unread"),
    ] {
        shown.outside(&bare);
        let run = looked_up(policy, &all).within(AT_ONCE);
        assert_eq!(run.ended.stdout, lines(3, &["ETIMEDOUT", "EPIPE"]));
        assert_eq!(at_80(&run), told(&[of_docs, of_denied]));
        assert!(run.gaps().is_empty(), "{:?}", run.gaps());
        shown.refused(&run);
        // Each is recorded by its own name.
        let run = looked_up(policy, &asked(&[&docs, &other, &docs, &other]));
        assert_eq!(
            at_80(&run),
            told(&[of_docs, (Some("other.example"), false, 2)])
        );
        // However long what belongs to a request is, the next one begins behind it.
        let long =
            "POST / HTTP/1.1\\r\\nHost: docs.example\\r\\nContent-Length: 5000000\\r\\n\\r\\n";
        for (last, what) in [(&docs, lines(3, &[])), (&denied, lines(2, &["ETIMEDOUT"]))] {
            let run = looked_up(policy, &asked(&[long, "body:5000000", last]));
            assert_eq!(run.ended.stdout, what);
            assert!(run.gaps().is_empty(), "{:?}", run.gaps());
        }
        // Two at once.
        let run = looked_up(policy, &asked(&[&format!("{docs}{denied}")]));
        assert_eq!(run.ended.stdout, lines(0, &["ETIMEDOUT"]));
        assert_eq!(at_80(&run), told(&[of_docs, of_denied]));
        // Another protocol from there on, or a body of which nobody knows where it ends: what comes then is unread, and that is told.
        let run = looked_up(policy, &upgraded);
        assert_eq!(run.ended.stdout, lines(2, &[]));
        assert_eq!(run.gaps().into_iter().collect::<Vec<_>>(), [gap]);
        unread.gap(&run, gap);
    }
    // By a deny-list that is no gap before something comes.
    let run = looked_up(DENY, &asked(&[upgrade]));
    assert!(run.gaps().is_empty(), "{:?}", run.gaps());
}

#[test]
fn a_request_is_read_from_memory_that_is_not_copied() {
    let shown = case!(35, "zero copy of a denied name's request");
    refused_and_passed("zerocopy", &shown);
}

/// The name outside of an encrypted hello is judged; that there is one inside is told.
#[test]
fn a_hello_with_a_hidden_one_is_judged_by_what_it_shows() {
    let shown = case!(28, "a hello with a hidden one, by what it shows");
    let hidden = case!(28, "what an encrypted hello hides");
    let world = World::new("claims_hidden");
    let cdn = world.node("cdn");
    let web = cdn.https(&world.authority(), &["docs.example"]);
    world.dns(Zone::new());
    let say = |name| claim("tls-hidden", cdn.v4(), 443, &[name]);
    // 22 is a handshake: the server went on.
    let bare = world.run(&say("api.github.com")).says("record of type 22");
    shown.outside(&bare);
    hidden.outside(&bare);
    let before = web.seen().len();
    let run = world
        .guard()
        .policy(DENY)
        .run(&say("api.github.com"))
        .exits(1)
        .says("EACCES");
    shown.refused(&run);
    assert_eq!(web.seen().len(), before, "nothing came through");
    let run = world
        .guard()
        .policy(DENY)
        .run(&say("docs.example"))
        .exits(0)
        .says("record of type 22");
    let flow = run.flow(cdn.v4(), 443);
    assert_eq!(
        (flow.verdict, flow.name.as_deref()),
        (Verdict::Allow, Some("docs.example"))
    );
    assert!(run.gaps().contains("claims_hidden"), "{:?}", run.gaps());
    hidden.gap(&run, "claims_hidden");
}

/// What is in use hides something in every hello, or says that it might: Chromium does.
#[test]
fn a_browser_that_hides_names_is_recorded_or_refused() {
    let allowed = case!(28, "a browser that may hide a name, where that is allowed");
    let denied = case!(28, "a browser that may hide a name, where that is denied");
    let world = World::new("claims_browser");
    let cdn = world.node("cdn");
    let web = cdn.https(&world.authority(), &["docs.example"]);
    world.dns(Zone::new().host("docs.example", &cdn));
    let profile = format!("--user-data-dir={}", world.dir().join("profile").display());
    let browse = [
        "timeout",
        "60",
        "chromium",
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--ignore-certificate-errors",
        &profile,
        "--dump-dom",
        "https://docs.example/",
    ];
    let bare = world.run(&browse).says("hello from cdn");
    allowed.outside(&bare);
    denied.outside(&bare);
    for held in ["--no-contain", "--contain"] {
        let guard = |policy: &str| world.guard().policy(policy).arg(held);
        let run = guard(DENY).run(&browse).says("hello from cdn");
        assert!(run.gaps().contains("claims_hidden"), "{:?}", run.gaps());
        allowed.gap(&run, "claims_hidden");
        let before = web.seen().len();
        let run = guard("mode: enforce\nhidden: deny\nrules: []\n").run(&browse);
        assert!(!run.ended.stdout.contains("hello from cdn"), "{run:?}");
        assert_eq!(web.seen().len(), before, "nothing came through");
        let to: Vec<_> = run
            .flows(cdn.v4())
            .into_iter()
            .filter(|it| it.port == 443)
            .collect();
        assert!(
            !to.is_empty()
                && to
                    .iter()
                    .all(|it| it.verdict == Verdict::Deny && it.rule.contains("hidden name")),
            "{to:#?}"
        );
        denied.refused(&run);
    }
}

/// Where no more connections can be held before they have said anything, the next ones are read as their data leaves.
#[test]
fn connections_that_find_no_room_are_read_all_the_same() {
    let world = World::new("claims_crowd");
    let cdn = world.node("cdn");
    // The servers are this process's.
    let most = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: most.maximum,
        ..most
    };
    setrlimit(Resource::Nofile, all).unwrap();
    cdn.http();
    world.dns(Zone::new());
    let say = claim("crowd", cdn.v4(), 80, &["api.github.com"]);
    world.run(&say).succeeds().says("hello from cdn");
    let run = world
        .guard()
        .policy(DENY)
        .run(&say)
        .exits(1)
        .says("ETIMEDOUT");
    assert!(
        !run.gaps().iter().any(|gap| gap.starts_with("claims")),
        "{:?}",
        run.gaps()
    );
    let mut flows = run.flows(cdn.v4());
    flows.sort_by_key(|flow| flow.attempts);
    let told: Vec<_> = flows
        .iter()
        .map(|flow| (flow.name.as_deref(), flow.verdict, flow.attempts))
        .collect();
    assert_eq!(
        told,
        [
            (Some("api.github.com"), Verdict::Deny, 1),
            (None, Verdict::Allow, 4200)
        ]
    );
}

#[test]
fn under_default_deny_a_lease_permits_its_names_and_a_prefix_all() {
    let world = World::new("claims_default_deny");
    let cdn = world.node("cdn");
    cdn.http();
    world.dns(Zone::new().host("docs.example", &cdn));
    let fetch = |name: &str| {
        format!(
            "curl -sS4 -o /dev/null http://docs.example/ && curl -sS4 -H 'Host: {name}' http://docs.example/"
        )
    };
    for (rule, name, code) in [
        ("allow: docs.example", "docs.example", 0),
        // The name is nobody's, and only another one led here.
        ("allow: docs.example", "other.example", 55),
        ("allow: 10.77.0.0/16", "other.example", 0),
    ] {
        let rules =
            format!("mode: enforce\ndefault: deny\nrules:\n  - {rule}\n  - allow: docs.example\n");
        let run = world
            .guard()
            .policy(&rules)
            .run(&["sh", "-c", &fetch(name)])
            .within(AT_ONCE);
        assert_eq!(run.ended.code, code, "{rule}, {name}: {run:?}");
        let refused = run
            .flows(cdn.v4())
            .iter()
            .any(|flow| flow.verdict == Verdict::Deny && flow.name.as_deref() == Some(name));
        assert_eq!(refused, code != 0, "{rule}, {name}");
    }
}

#[test]
fn a_name_that_is_written_short_is_the_one_that_was_looked_up() {
    let world = World::new("claims_short");
    let web = world.node("web");
    web.http();
    let dns = world.dns(
        Zone::new()
            .host("mirror.prod.internal", &web)
            .host("other.internal", &web),
    );
    world.resolv_conf(&format!(
        "nameserver {}\nsearch none.example prod.internal internal\noptions ndots:3\n",
        dns.address()
    ));
    let policy = "mode: enforce\ndefault: deny\nrules:\n  - allow: \"*.prod.internal\"\n";
    for name in ["mirror", "mirror.prod", "mirror.prod.internal"] {
        let run = world
            .guard()
            .policy(policy)
            .run(&["curl", "-sS4", &format!("http://{name}/")])
            .exits(0)
            .says("hello from web");
        let flow = run.flow(web.v4(), 80);
        assert_eq!(flow.name.as_deref(), Some("mirror.prod.internal"), "{name}");
        assert_eq!(flow.attempts, 1, "{name}");
    }
    // Another one, written as short, was not looked up.
    let other = ["curl", "-sS4", "-H", "Host: other", "http://mirror/"];
    world.guard().policy(policy).run(&other).exits(55);
}

#[test]
fn real_clients_are_refused_and_pass() {
    let shown = case!(28, "the name in TLS, by clients that are in use");
    let world = World::new("claims_clients");
    let cdn = world.node("cdn");
    cdn.https(&world.authority(), &["docs.example", "github.com"]);
    world.dns(Zone::new());
    let address = cdn.v4();
    let python = format!(
        "import socket,ssl,sys\nc=ssl.create_default_context()\n\
         s=c.wrap_socket(socket.create_connection(('{address}',443)),server_hostname=sys.argv[1])\n\
         s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n'); print(s.recv(4096))"
    );
    let openssl = |name: &str| {
        format!(
            "echo | openssl s_client -connect {address}:443 -servername {name} -verify_return_error"
        )
    };
    let tls12 = |name: &str| format!("{} -tls1_2", openssl(name));
    let curl = |name: &str| format!("curl -sS --resolve {name}:443:{address} https://{name}/");
    let python = |name: &str| {
        format!("/usr/bin/python3 -c \"$PYTHON\" {name}")
            .replace("$PYTHON", &python.replace('"', "\\\""))
    };
    let clients = [
        ("openssl", &openssl as &dyn Fn(&str) -> String),
        ("openssl, TLS 1.2", &tls12),
        ("curl", &curl),
        ("python", &python),
    ];
    for (client, line) in clients {
        let command = |name: &str| ["sh".to_owned(), "-c".to_owned(), line(name)];
        shown.outside(&world.run(&command("github.com")));
        let run = world
            .guard()
            .policy(DENY)
            .run(&command("github.com"))
            .within(AT_ONCE);
        assert!(
            (1..120).contains(&run.ended.code),
            "{client}: {:?}",
            run.ended
        );
        assert_eq!(run.flow(address, 443).verdict, Verdict::Deny, "{client}");
        shown.refused(&run);
        let run = world
            .guard()
            .policy(DENY)
            .run(&command("docs.example"))
            .exits(0);
        let flow = run.flow(address, 443);
        assert_eq!(
            (flow.verdict, flow.name.as_deref()),
            (Verdict::Allow, Some("docs.example")),
            "{client}"
        );
    }
}

#[test]
fn a_redirect_to_a_denied_name_ends_there() {
    let shown = case!(29);
    let world = World::new("claims_redirect");
    let (mirror, github) = (world.node("mirror"), world.node("github"));
    github.http();
    let page = "HTTP/1.1 302 Found\\r\\nLocation: http://github.com/\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n";
    let server = format!(
        "import socketserver\nclass H(socketserver.StreamRequestHandler):\n  def handle(self):\n    self.rfile.readline(); self.wfile.write(b'{page}')\n\
         socketserver.TCPServer.allow_reuse_address=True\nsocketserver.TCPServer(('',80),H).serve_forever()"
    );
    mirror.serve(80, &["/usr/bin/python3", "-c", &server]);
    world.dns(
        Zone::new()
            .host("mirror.internal", &mirror)
            .host("github.com", &github),
    );
    let follow = ["curl", "-sS4L", "http://mirror.internal/"];
    shown.outside(&world.run(&follow).says("hello from github"));
    let run = world
        .guard()
        .policy(DENY)
        .run(&follow)
        .exits(6)
        .within(AT_ONCE);
    assert_eq!(run.flow(mirror.v4(), 80).verdict, Verdict::Allow);
    assert_eq!(run.verdict_on("github.com"), Verdict::Deny);
    assert!(run.flows(github.v4()).is_empty());
    shown.refused(&run);
}

#[test]
fn quic_is_judged_by_its_address_and_what_it_says_is_a_gap() {
    let passed = case!(30, "by a deny-list of names");
    let refused = case!(30, "by a rule about its port");
    let world = World::new("claims_quic");
    let cdn = world.node("cdn");
    cdn.udp_echo(443);
    world.dns(Zone::new().host("docs.example", &cdn));
    let say = format!(
        "getent ahostsv4 docs.example >/dev/null; {}",
        reach("udp", cdn.v4(), 443).join(" ")
    );
    let bare = world.run(&["sh", "-c", &say]);
    passed.outside(&bare);
    refused.outside(&bare);
    let run = world.guard().policy(DENY).run(&["sh", "-c", &say]).exits(0);
    let flow = run.flow(cdn.v4(), 443);
    assert_eq!(
        (flow.verdict, flow.name.as_deref(), flow.protocol.as_str()),
        (Verdict::Allow, Some("docs.example"), "udp")
    );
    assert!(run.gaps().contains("quic"), "{:?}", run.gaps());
    passed.recorded(&run);
    let run = world
        .guard()
        .policy("mode: enforce\nrules:\n  - { deny: \"*:443\", protocol: udp }\n  - deny: .github.com\n")
        .run(&["sh", "-c", &say])
        .exits(1)
        .says("ECONNREFUSED");
    assert!(!run.gaps().contains("quic"), "{:?}", run.gaps());
    refused.refused(&run);
}

/// By a real client, from the first packet of a handshake to an answer: what it asks for there says that it all went through.
#[test]
fn a_handshake_of_quic_is_judged_by_its_address_whatever_name_it_gives() {
    let passed = case!(30, "a handshake, by a deny-list of names");
    let hidden = case!(30, "a handshake that gives a denied name");
    let refused = case!(30, "a handshake, by a rule about its port");
    let listed = case!(30, "a handshake, by an allow-list that has its name");
    let unlisted = case!(30, "a handshake, by an allow-list that has not");
    let world = World::new("claims_handshake");
    let cdn = world.node("cdn");
    let zone = Zone::new().a("inner.example", [192, 0, 2, 1].into());
    let names = ["docs.example", "api.github.com"];
    let server = Dns::start_over_quic(&cdn, zone, &world.authority(), &names);
    // It serves at another port than the web does: on the way to it, what comes to the one goes to the other.
    let redirect = "add table inet moved\n\
        add chain inet moved in { type nat hook prerouting priority -100; }\n\
        add rule inet moved in udp dport 443 redirect to :853\n";
    let redirect = format!("printf '{}' | nft -f -", redirect.replace('\n', "\\n"));
    cdn.start(&["sh", "-c", &redirect]).wait().succeeds();
    world.dns(Zone::new().host("docs.example", &cdn));
    for address in [IpAddr::from(cdn.v4()), cdn.v6().into()] {
        let at = SocketAddr::new(address, 443);
        let say = |name: &str| {
            let script = format!(
                "getent ahosts docs.example >/dev/null; exec {} {at} {name} inner.example",
                env!("CARGO_BIN_EXE_blackstart-doq")
            );
            ["sh".to_owned(), "-c".to_owned(), script]
        };
        let bare = world.run(&say("docs.example")).says("192.0.2.1");
        for case in [&passed, &refused, &listed, &unlisted] {
            case.outside(&bare);
        }
        hidden.outside(&world.run(&say("api.github.com")).says("192.0.2.1"));
        let told = |run: &Guarded| {
            let flow = run.flow(address, 443);
            assert_eq!(flow.protocol, "udp");
            assert!(run.chain(flow.subject)[0].contains("blackstart-doq"));
            (flow.verdict, flow.name.clone(), flow.rule.clone())
        };
        let docs = Some("docs.example".to_owned());
        let held = ["--no-contain", "--contain"];
        let only = "mode: enforce\ndefault: deny\nrules:\n  - allow: ";
        let by_port = "mode: enforce\nrules:\n  - { deny: \"*:443\", protocol: udp }\n  - deny: .github.com\n";
        // Those that are refused have patience, as clients of datagrams do, and it passes while the others run.
        let waiting = held.map(|held| {
            [by_port, &format!("{only}other.example\n")].map(|policy| {
                let guard = world.guard().policy(policy).arg(held);
                guard.start(&say("docs.example"))
            })
        });
        for held in held {
            let guard = |policy: &str| world.guard().policy(policy).arg(held);
            // The name within is nothing that anybody reads, which is said: the one that was looked up counts.
            for name in names {
                let run = guard(DENY).run(&say(name)).exits(0).says("192.0.2.1");
                let (verdict, looked_up, _) = told(&run);
                assert_eq!((verdict, looked_up), (Verdict::Allow, docs.clone()));
                assert!(run.gaps().contains("quic"), "{:?}", run.gaps());
                if name == "docs.example" {
                    passed.recorded(&run);
                } else {
                    hidden.gap(&run, "quic");
                }
            }
            let run = guard(&format!("{only}docs.example\n"));
            let run = run.run(&say("docs.example")).exits(0).says("192.0.2.1");
            let (verdict, looked_up, _) = told(&run);
            assert_eq!((verdict, looked_up), (Verdict::Allow, docs.clone()));
            listed.recorded(&run);
        }
        for [of_port, of_list] in waiting {
            let run = of_port.wait().exits(1);
            let (verdict, _, rule) = told(&run);
            assert_eq!(
                (verdict, rule.as_str()),
                (Verdict::Deny, "deny *:443, protocol udp")
            );
            assert!(!run.gaps().contains("quic"), "{:?}", run.gaps());
            refused.refused(&run);
            let run = of_list.wait().exits(1);
            assert_eq!(told(&run).0, Verdict::Deny);
            unlisted.refused(&run);
        }
    }
    // At each address two bare ones and three of each way to hold a run.
    assert_eq!(
        server.seen().len(),
        2 * (2 + 2 * 3),
        "nothing came of what was refused"
    );
}

#[test]
fn without_a_supervisor_a_denied_name_stays_refused() {
    let world = World::new("claims_killed");
    let cdn = world.node("cdn");
    cdn.https(&world.authority(), &["docs.example", "github.com"]);
    world.dns(Zone::new());
    let go = world.file("go", "");
    let curl = |name: &str| format!("curl -sS --resolve {name}:443:{} https://{name}/", cdn.v4());
    let out = world.dir().join("said");
    let script = format!(
        "echo ready; while [ -e {} ]; do sleep 0.05; done; {{ {} && echo passed; {}; echo refused $?; }} >{} 2>&1",
        go.display(),
        curl("docs.example"),
        curl("github.com"),
        out.display()
    );
    let mut run = world.guard().policy(DENY).start(&["sh", "-c", &script]);
    run.running().wait_for("ready");
    run.running().signal(rustix::process::Signal::KILL);
    assert_eq!(run.wait().ended.code, 128 + 9);
    std::fs::remove_file(&go).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    let said = loop {
        let said = std::fs::read_to_string(&out).unwrap_or_default();
        if said.contains("refused") || std::time::Instant::now() > deadline {
            break said;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(
        said.contains("passed") && said.contains("refused 35"),
        "{said}"
    );
}

#[test]
fn a_connection_that_was_read_goes_on_like_any_other() {
    let world = World::new("claims_echo");
    let cdn = world.node("cdn");
    cdn.tcp_echo(80);
    world.dns(Zone::new());
    let only =
        "mode: enforce\ndefault: deny\nrules:\n  - allow: docs.example\n  - allow: 10.77.0.0/16\n";
    for way in ["echo", "echo-waiting"] {
        let echo = claim(way, cdn.v4(), 80, &["docs.example"]);
        let bare = world.run(&echo).succeeds().says("everything back");
        for policy in [DENY, DENY, only] {
            let run = world
                .guard()
                .policy(policy)
                .run(&echo)
                .exits(0)
                .says(bare.stdout.trim());
            let flow = run.flow(cdn.v4(), 80);
            assert_eq!(
                (flow.name.as_deref(), flow.attempts),
                (Some("docs.example"), 1)
            );
            assert!(flow.bytes_sent > 3 << 20, "{flow:?}");
        }
    }
}

/// A read that waits is woken by signals, and goes on waiting; in a table of sockets it would fail (tcp_bpf_recvmsg).
#[test]
fn whoever_waits_for_an_answer_may_be_interrupted() {
    let world = World::new("claims_signals");
    let cdn = world.node("cdn");
    // Its answer takes a while.
    let server = "import socketserver,time\nclass H(socketserver.StreamRequestHandler):\n  def handle(self):\n    self.rfile.readline(); time.sleep(0.3); self.wfile.write(b'hello from cdn')\n\
         socketserver.ThreadingTCPServer.allow_reuse_address=True\nsocketserver.ThreadingTCPServer(('',80),H).serve_forever()";
    cdn.serve(80, &["/usr/bin/python3", "-c", server]);
    world.dns(Zone::new());
    let ask = claim("interrupted", cdn.v4(), 80, &["docs.example"]);
    world.run(&ask).succeeds().says("hello from cdn");
    let only =
        "mode: enforce\ndefault: deny\nrules:\n  - allow: docs.example\n  - allow: 10.77.0.0/16\n";
    for policy in [DENY, only] {
        let run = world.guard().policy(policy).run(&ask).exits(0);
        let run = run.says("hello from cdn");
        assert_eq!(run.flow(cdn.v4(), 80).verdict, Verdict::Allow);
    }
}

#[test]
fn names_are_read_from_the_change_of_policy_on_that_wants_it() {
    let world = World::new("claims_reload");
    let cdn = world.node("cdn");
    cdn.https(&world.authority(), &["github.com"]);
    world.dns(Zone::new());
    let whole = |rules: &str| {
        format!("apiVersion: blackstart.dev/v1\nkind: Policy\nmode: enforce\n{rules}\n")
    };
    let file = world.file("changing.yaml", &whole("rules: []"));
    let go = world.dir().join("go");
    let curl = format!(
        "curl -sS --resolve github.com:443:{} https://github.com/",
        cdn.v4()
    );
    let script = format!(
        "{curl}; echo first $?; while [ ! -e {go} ]; do sleep 0.05; done; {curl}; echo second $?",
        go = go.display()
    );
    let mut run = world
        .guard()
        .policy_path(&file)
        .arg("--service=changing")
        .start(&["sh", "-c", &script]);
    run.running().wait_for("first 0");
    std::fs::write(&file, whole("rules:\n  - deny: .github.com")).unwrap();
    world.guard().blackstart(&["reload", "changing"]).exits(0);
    std::fs::write(&go, "").unwrap();
    let run = run.wait().exits(0).says("second 35");
    let denied: Vec<_> = run
        .flows(cdn.v4())
        .into_iter()
        .filter(|flow| flow.verdict == Verdict::Deny)
        .map(|flow| flow.name.as_deref())
        .collect();
    assert_eq!(denied, [Some("github.com")]);
    assert_eq!(world.left_behind(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn of_two_runs_one_within_the_other_each_reads() {
    let world = World::new("claims_nested");
    let cdn = world.node("cdn");
    cdn.http();
    cdn.https(&world.authority(), &["github.com"]);
    world.dns(Zone::new());
    let inner = |denied: &str, way: &str, port: u16| {
        let mut line = world
            .guard()
            .policy(&format!("mode: enforce\nrules:\n  - deny: {denied}\n"))
            .line();
        line.extend(claim(way, cdn.v4(), port, &["github.com"]));
        line
    };
    // Of one the inner run has read all there is, and wants to hear no more of it: the outer one does.
    for (way, port) in [("host", 80), ("tls", 443)] {
        world
            .guard()
            .policy(DENY)
            .run(&inner(".github.com", way, port))
            .exits(1)
            .says("EACCES");
        let started = Instant::now();
        let run = world
            .guard()
            .policy(DENY)
            .run(&inner("other.example", way, port))
            .exits(1)
            .says("ETIMEDOUT");
        assert!(started.elapsed() < Duration::from_secs(6), "{way}");
        assert_eq!(run.flow(cdn.v4(), port).verdict, Verdict::Deny);
        assert!(!run.gaps().contains("claims_busy"), "{:?}", run.gaps());
    }
}
