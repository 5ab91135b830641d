//! What names may be and lead to: long answers, hints, addresses next door or of what is protected, names at their limits.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use blackstart_core::report::Verdict;
use blackstart_lab::client::claim;
use blackstart_lab::shown::Shown;
use blackstart_lab::{Guarded, Node, World, Zone, case};

/// "At once": a generous bound for a loaded test machine, far below any resolver's or TCP's patience.
const AT_ONCE: Duration = Duration::from_secs(4);

/// Both ways to hold a run.
const HELD: [&str; 2] = ["--no-contain", "--contain"];

/// How many addresses a name has that has many: more than any datagram takes that the lab's server sends.
const MANY: u8 = 200;

/// The last octet of an address that the machine has, and no name.
const UNNAMED: u8 = 250;

fn v4(last: u8) -> Ipv4Addr {
    [10, 78, 0, last].into()
}

fn v6(last: u8) -> Ipv6Addr {
    [0xfd78, 0, 0, 0, 0, 0, 0, u16::from(last)].into()
}

/// Have a machine that sends everything back at all addresses of two networks, which are behind it.
fn crowd(world: &World) -> Node {
    let web = world.node("web");
    web.tcp_echo(7);
    let on = |node: &Node, words: &str| {
        let line: Vec<_> = words.split(' ').collect();
        node.start(&line).wait().succeeds();
    };
    on(&web, "ip route add local 10.78.0.0/24 dev lo");
    on(&web, "ip -6 route add local fd78::/64 dev lo");
    on(
        world.host(),
        &format!("ip route add 10.78.0.0/24 via {}", web.v4()),
    );
    on(
        world.host(),
        &format!("ip -6 route add fd78::/64 via {}", web.v6()),
    );
    web
}

/// The command that looks a name up so often, connects to every address that it ever had, the first one last, and says how many there
/// were. Behind that, the further arguments are addresses to connect to, of which it says what became.
fn to_all(name: &str, times: u8, family: &str, further: &[IpAddr]) -> Vec<String> {
    let code = "import socket, sys\n\
        name, times, family = sys.argv[1], int(sys.argv[2]), getattr(socket, sys.argv[3])\n\
        found = []\n\
        for turn in range(times):\n\
        \x20 new = [a[4][0] for a in socket.getaddrinfo(name, 7, family, socket.SOCK_STREAM)]\n\
        \x20 found += [a for a in new if a not in found]\n\
        for a in reversed(found): socket.create_connection((a, 7), 10).close()\n\
        print('all', len(found), 'reached')\n\
        for a in sys.argv[4:]:\n\
        \x20 try: socket.create_connection((a, 7), 10).close(); print(a, 'reached')\n\
        \x20 except ConnectionRefusedError: print(a, 'refused')\n";
    let mut line = [
        "/usr/bin/python3",
        "-c",
        code,
        name,
        &times.to_string(),
        family,
    ]
    .map(str::to_owned)
    .to_vec();
    line.extend(further.iter().map(ToString::to_string));
    line
}

/// How many addresses were connected to under this name, each of them once.
fn reached(run: &Guarded, name: &str) -> usize {
    let flows = run.report().flows.iter();
    let named = flows.filter(|flow| {
        (flow.port, flow.protocol.as_str()) == (7, "tcp") && flow.name.as_deref() == Some(name)
    });
    named
        .inspect(|flow| assert_eq!((flow.verdict, flow.attempts), (Verdict::Allow, 1)))
        .count()
}

#[test]
fn every_address_of_a_long_answer_permits() {
    let shown = case!(22, "an answer of two hundred records, over TCP");
    let unnamed = case!(
        22,
        "an address that is in no answer, beside two hundred that are"
    );
    let world = World::new("two_hundred");
    crowd(&world);
    let mut zone = Zone::new();
    for last in 1..=MANY {
        zone = zone
            .a("many.example", v4(last))
            .aaaa("many.example", v6(last));
    }
    let dns = world.dns(zone);
    for (family, other) in [
        ("AF_INET", v4(UNNAMED).into()),
        ("AF_INET6", v6(UNNAMED).into()),
    ] {
        let line = to_all("many.example", 1, family, &[other]);
        let (all, other) = (format!("all {MANY} reached"), other.to_string());
        let bare = world
            .run(&line)
            .says(&all)
            .says(&format!("{other} reached"));
        shown.outside(&bare);
        unnamed.outside(&bare);
        for held in HELD {
            let before = dns.seen().len();
            let run = world
                .guard()
                .policy("mode: enforce\ndefault: deny\nrules:\n  - allow: many.example\n")
                .arg(held)
                .run(&line)
                .exits(0)
                .says(&all)
                .says(&format!("{other} refused"));
            assert_eq!(reached(&run, "many.example"), usize::from(MANY));
            // The answer did not fit into a datagram, and came by a stream.
            let overs: Vec<_> = dns.seen()[before..]
                .iter()
                .map(|it| it.over.clone())
                .collect();
            assert!(overs.contains(&"tcp".to_owned()), "{overs:?}");
            shown.recorded(&run);
            let address: IpAddr = other.parse().unwrap();
            assert_eq!(run.flow(address, 7).verdict, Verdict::Deny);
            unnamed.refused(&run);
        }
    }
}

/// The whole of it in one datagram, which the network cuts into fragments.
#[test]
fn every_address_of_a_long_datagram_permits() {
    let shown = case!(22, "an answer of two hundred records, in one datagram");
    let world = World::new("long_datagram");
    crowd(&world);
    world.bare_dns_node().udp(53, |query| {
        let mut answer = query.to_vec();
        answer[2] |= 0x80;
        if query.ends_with(&[0, 1, 0, 1]) {
            answer[7] = MANY;
            for last in 1..=MANY {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                answer.extend(v4(last).octets());
            }
        }
        vec![answer]
    });
    let code = "import socket, sys\n\
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
        s.settimeout(8)\n\
        s.connect((sys.argv[1], 53))\n\
        s.send(b'\\x12\\x34\\x01\\x00\\x00\\x01' + bytes(6) + b'\\x04many\\x07example\\x00\\x00\\x01\\x00\\x01')\n\
        answer = s.recv(65536)\n\
        assert len(answer) > 3000, len(answer)\n\
        found = [answer[at + 12:at + 16] for at in range(30, len(answer), 16)]\n\
        for a in found: socket.create_connection((socket.inet_ntoa(a), 7), 10).close()\n\
        print('all', len(found), 'reached')\n";
    let line = ["/usr/bin/python3", "-c", code, "10.77.0.53"];
    let all = format!("all {MANY} reached");
    shown.outside(&world.run(&line).says(&all));
    for held in HELD {
        let run = world
            .guard()
            .policy("mode: enforce\ndefault: deny\nrules:\n  - allow: many.example\n")
            .arg(held)
            .run(&line)
            .exits(0)
            .says(&all);
        assert_eq!(reached(&run, "many.example"), usize::from(MANY));
        shown.recorded(&run);
    }
}

#[test]
fn every_address_that_an_answer_ever_had_permits() {
    let shown = case!(22, "an answer with another address each time");
    let world = World::new("rotation");
    crowd(&world);
    let mut zone = Zone::new().rotates("turns.example");
    for last in 1..=MANY {
        zone = zone.a("turns.example", v4(last));
    }
    world.dns(zone);
    let times = 150;
    let line = to_all("turns.example", times, "AF_INET", &[v4(UNNAMED).into()]);
    let all = format!("all {times} reached");
    shown.outside(&world.run(&line).says(&all));
    for held in HELD {
        let run = world
            .guard()
            .policy("mode: enforce\ndefault: deny\nrules:\n  - allow: turns.example\n")
            .arg(held)
            .run(&line)
            .exits(0)
            .says(&all)
            .says(&format!("{} refused", v4(UNNAMED)));
        assert_eq!(reached(&run, "turns.example"), usize::from(times));
        let lookups = run.lookups("turns.example").into_iter();
        let queries = lookups.map(|name| name.queries);
        assert_eq!(queries.sum::<u64>(), u64::from(times));
        shown.recorded(&run);
    }
}

fn curl(name: &str) -> Vec<String> {
    let url = format!("http://{name}/");
    ["curl", "-sS", "-m", "10", &url]
        .map(str::to_owned)
        .to_vec()
}

/// The addresses next door at which clouds hand out the machine's own credentials, and any other there.
#[test]
fn by_an_allow_list_of_names_no_name_leads_next_door() {
    let shown = case!(18, "a link-local address without a rule about it");
    let passed = case!(
        18,
        "a link-local address, by a deny-list that says nothing of it"
    );
    let world = World::new("next_door");
    let inner = world.node("inner");
    inner.http();
    let mut zone = Zone::new();
    let addresses: [(&str, IpAddr); 3] = [
        ("rebound.example", [169, 254, 169, 254].into()),
        ("near.example", [169, 254, 7, 7].into()),
        (
            "rebound6.example",
            "fd00:ec2::254".parse::<IpAddr>().unwrap(),
        ),
    ];
    for (name, address) in addresses {
        inner.add_address(address);
        let (family, via) = match address {
            IpAddr::V4(v4) => {
                zone = zone.a(name, v4);
                ("-4", inner.v4().to_string())
            }
            IpAddr::V6(v6) => {
                zone = zone.aaaa(name, v6);
                ("-6", inner.v6().to_string())
            }
        };
        let route = [
            "ip",
            family,
            "route",
            "add",
            &address.to_string(),
            "via",
            &via,
        ];
        world.run(&route).succeeds();
    }
    world.dns(zone.cname("alias.example", "rebound.example"));
    for (name, address) in [
        addresses[0],
        addresses[1],
        addresses[2],
        ("alias.example", addresses[0].1),
    ] {
        let bare = world.run(&curl(name)).says("hello from inner");
        shown.outside(&bare);
        passed.outside(&bare);
        let only = format!("mode: enforce\ndefault: deny\nrules:\n  - allow: {name}\n");
        for held in HELD {
            let guard = |policy: &str| world.guard().policy(policy).arg(held);
            let run = guard(&only).run(&curl(name)).exits(7).within(AT_ONCE);
            assert_eq!(run.verdict_on(name), Verdict::Allow);
            let flow = run.flow(address, 80);
            assert_eq!(
                (flow.verdict, flow.rule.as_str(), flow.name.as_deref()),
                (
                    Verdict::Deny,
                    "built-in: link-local address of a name",
                    Some(name)
                )
            );
            assert_eq!(run.subject(flow.subject).argv[0], "curl");
            shown.refused(&run);
            // Somebody has written that it may be reached.
            let run = guard(&format!("{only}  - allow: \"{address}\"\n"));
            let run = run.run(&curl(name)).exits(0).says("hello from inner");
            assert_eq!(run.flow(address, 80).verdict, Verdict::Allow);
            // A live deployment may fetch its credentials.
            let run = guard("mode: enforce\nrules:\n  - deny: github.com\n");
            let run = run.run(&curl(name)).exits(0).says("hello from inner");
            let flow = run.flow(address, 80);
            assert_eq!(
                (flow.verdict, flow.name.as_deref()),
                (Verdict::Allow, Some(name))
            );
            passed.recorded(&run);
        }
        // Observed, it is told what would be.
        let run = world
            .guard()
            .policy(&only.replace("enforce", "observe"))
            .run(&curl(name))
            .exits(0);
        assert_eq!(run.flow(address, 80).verdict, Verdict::WouldDeny);
    }
}

/// A name that is allowed may lead to where a protected service is. By its names the service is protected under these: what says in its
/// request that it is for one of them is refused, and so is what leads there by a chain. By its addresses it is whatever the name.
#[test]
fn an_allowed_name_that_leads_to_a_protected_service() {
    let chain = case!(18, "a chain to a protected name");
    let said = case!(18, "the address of a protected name, for that name");
    let address = case!(18, "a protected address");
    let passed = case!(18, "the address of a protected name, for another one");
    let world = World::new("protected");
    let github = world.node("github");
    let web = github.http();
    world.dns(
        Zone::new()
            .host("github.com", &github)
            .host("docs.example", &github)
            .cname("alias.example", "github.com"),
    );
    let catalog = |name: &str, provides: &str| {
        let text = format!(
            "apiVersion: blackstart.dev/v1\nkind: Service\nname: github\nprovides: [{provides}]\n"
        );
        let file = world.file(name, &text);
        format!("--catalog={}", file.display())
    };
    let by_name = catalog("names.yaml", ".github.com");
    let by_its_address = format!("deny {} (protect github)", github.v4());
    let by_address = catalog(
        "addresses.yaml",
        &format!("github.com, {}, \"{}\"", github.v4(), github.v6()),
    );
    // As whoever has an allowed name lead to it asks for what he wants there.
    let smuggled = [
        "sh",
        "-c",
        &format!(
            "getent ahostsv4 docs.example >/dev/null && exec {}",
            claim("host", github.v4(), 80, &["github.com"]).join(" ")
        ),
    ]
    .map(str::to_owned);
    let bare = world.run(&curl("docs.example")).says("hello from github");
    passed.outside(&bare);
    address.outside(&bare);
    chain.outside(&world.run(&curl("alias.example")));
    said.outside(&world.run(&smuggled));
    for (default, allows) in [
        ("", ""),
        (
            "default: deny\n",
            "rules:\n  - allow: docs.example\n  - allow: alias.example\n",
        ),
    ] {
        let policy = format!("mode: enforce\n{default}protect: [github]\n{allows}");
        for held in HELD {
            let guard = |catalog: &str| {
                let guard = world.guard().policy(&policy).arg("--service=mysql");
                guard.arg(catalog).arg(held)
            };
            let run = guard(&by_name).run(&curl("docs.example")).exits(0);
            let run = run.says("hello from github");
            assert_eq!(run.verdict_on("docs.example"), Verdict::Allow);
            let flows = run.flows(github.v4());
            let flows = flows.into_iter().chain(run.flows(github.v6()));
            for flow in flows.filter(|flow| flow.protocol == "tcp") {
                assert_eq!(
                    (flow.verdict, flow.name.as_deref()),
                    (Verdict::Allow, Some("docs.example"))
                );
            }
            passed.recorded(&run);
            let before = web.seen().len();
            let run = guard(&by_name).run(&smuggled).exits(1).says("EACCES");
            let denied = run.flow(github.v4(), 80);
            assert_eq!(
                (denied.verdict, denied.name.as_deref(), denied.rule.as_str()),
                (
                    Verdict::Deny,
                    Some("github.com"),
                    "deny .github.com (protect github)"
                )
            );
            said.refused(&run);
            let run = guard(&by_name).run(&curl("alias.example")).within(AT_ONCE);
            assert!((1..120).contains(&run.ended.code), "{run:?}");
            let rules: Vec<_> = (run.report().names.iter())
                .filter(|name| name.verdict == Verdict::Deny)
                .map(|name| (name.name.as_str(), name.rule.as_str()))
                .chain(
                    (run.report().flows.iter())
                        .filter(|flow| flow.verdict == Verdict::Deny)
                        .map(|flow| (flow.name.as_deref().unwrap_or("-"), flow.rule.as_str())),
                )
                .collect();
            assert!(
                !rules.is_empty()
                    && rules
                        .iter()
                        .all(|it| *it == ("alias.example", "deny .github.com (protect github)")),
                "{rules:?}"
            );
            chain.refused(&run);
            let run = guard(&by_address)
                .run(&curl("docs.example"))
                .exits(7)
                .within(AT_ONCE);
            assert_eq!(run.verdict_on("docs.example"), Verdict::Allow);
            let denied = run.flow(github.v4(), 80);
            assert_eq!(
                (denied.verdict, denied.name.as_deref(), denied.rule.as_str()),
                (Verdict::Deny, Some("docs.example"), by_its_address.as_str())
            );
            address.refused(&run);
            assert_eq!(web.seen().len(), before, "nothing came through");
        }
    }
}

/// A real server of names with these records on a machine of its own, which the host asks.
fn dnsmasq(world: &World, records: &[String]) {
    let names = world.node("names");
    let mut line: Vec<String> = "dnsmasq --no-daemon --conf-file=/dev/null --user=root --pid-file= --no-hosts --no-resolv --local=/example/ --local=/arpa/"
        .split(' ')
        .map(str::to_owned)
        .collect();
    line.extend_from_slice(records);
    world.resolv_conf(&format!("nameserver {}\n", names.v4()));
    names.serve(53, &line);
}

/// A service binding (RFC 9460) of this type that hints at the addresses of a machine.
fn binding(name: &str, kind: u16, target: &str, at: &Node) -> String {
    let mut data = vec![0, 1];
    for label in target.split('.').filter(|label| !label.is_empty()) {
        data.push(u8::try_from(label.len()).unwrap());
        data.extend(label.bytes());
    }
    data.push(0);
    // RFC 9460, 14.3.2: ipv4hint, ipv6hint.
    data.extend([0, 4, 0, 4]);
    data.extend(at.v4().octets());
    data.extend([0, 6, 0, 16]);
    data.extend(at.v6().octets());
    let data: String = data.iter().map(|octet| format!("{octet:02x}")).collect();
    format!("--dns-rr={name},{kind},{data}")
}

#[test]
fn hints_of_a_name_s_own_addresses_permit_and_those_of_another_name_do_not() {
    let own = case!(19, "hints of a name's own addresses");
    let another = case!(19, "hints of another name's addresses");
    let world = World::new("hints");
    let (web, far) = (world.node("web"), world.node("far"));
    for node in [&web, &far] {
        node.tcp_echo(7);
    }
    dnsmasq(
        &world,
        &[
            binding("self.example", 65, "", &web),
            binding("_dns.self.example", 64, "", &web),
            binding("leads.example", 65, "far.example", &far),
            format!("--host-record=far.example,{},{}", far.v4(), far.v6()),
        ],
    );
    let policy = "mode: enforce\ndefault: deny\nrules:\n  - allow: .self.example\n  - allow: leads.example\n";
    for over in ["+notcp", "+tcp"] {
        for (name, kind, node, leased) in [
            ("self.example", "HTTPS", &web, true),
            ("_dns.self.example", "SVCB", &web, true),
            ("leads.example", "HTTPS", &far, false),
        ] {
            for address in [IpAddr::from(node.v4()), node.v6().into()] {
                let script = format!(
                    "dig {over} +short +tries=1 +timeout=5 {kind} {name}; exec 3<>/dev/tcp/{address}/7"
                );
                let line = ["bash", "-c", &script];
                let hint = format!("ipv4hint={}", node.v4());
                let bare = world.run(&line).says(&hint);
                own.outside(&bare);
                another.outside(&bare);
                for held in HELD {
                    let run = world
                        .guard()
                        .policy(policy)
                        .arg(held)
                        .run(&line)
                        .says(&hint);
                    assert_eq!(run.verdict_on(name), Verdict::Allow);
                    let flow = run.flow(address, 7);
                    if leased {
                        assert_eq!(
                            (flow.verdict, flow.name.as_deref()),
                            (Verdict::Allow, Some(name)),
                            "{over}"
                        );
                        own.recorded(&run.exits(0));
                    } else {
                        assert_eq!(
                            (flow.verdict, flow.name.as_deref()),
                            (Verdict::Deny, None),
                            "{over}"
                        );
                        another.refused(&run.exits(1));
                    }
                }
            }
        }
        // Whoever wants the other name's may look it up, where it may be.
        let script = format!(
            "dig {over} +short HTTPS leads.example; dig {over} +short far.example; exec 3<>/dev/tcp/{}/7",
            far.v4()
        );
        let run = world
            .guard()
            .policy(&format!("{policy}  - allow: far.example\n"))
            .run(&["bash", "-c", &script])
            .exits(0);
        assert_eq!(run.flow(far.v4(), 7).name.as_deref(), Some("far.example"));
        // Of a denied name there is no hint.
        let run = world
            .guard()
            .policy("mode: enforce\nrules:\n  - deny: self.example\n")
            .run(&["dig", over, "HTTPS", "self.example"])
            .says("status: NXDOMAIN");
        assert_eq!(run.verdict_on("self.example"), Verdict::Deny);
        assert!(!run.ended.stdout.contains("ipv4hint"), "{run:?}");
    }
}

#[test]
fn the_name_of_an_address_may_be_asked_for_by_an_allow_list() {
    let world = World::new("reverse");
    let (web, far) = (world.node("web"), world.node("far"));
    far.tcp_echo(7);
    let of_web = "10.0.77.10.in-addr.arpa";
    assert_eq!(web.v4(), Ipv4Addr::new(10, 77, 0, 10));
    dnsmasq(
        &world,
        &[
            format!("--host-record=web.example,{},{}", web.v4(), web.v6()),
            // Of an address's name, too, somebody could say where it is.
            format!("--host-record={of_web},{}", far.v4()),
        ],
    );
    let asks = |address: IpAddr| ["getent", "hosts", &address.to_string()].map(str::to_owned);
    let nothing = "mode: enforce\ndefault: deny\nrules: []\n";
    for (address, arpa) in [
        (IpAddr::from(web.v4()), "in-addr.arpa"),
        (web.v6().into(), "ip6.arpa"),
    ] {
        world.run(&asks(address)).says("web.example");
        for held in HELD {
            let run = world.guard().policy(nothing).arg(held).run(&asks(address));
            let run = run.exits(0).says("web.example");
            let [lookup] = &run.report().names[..] else {
                panic!("{:#?}", run.report().names)
            };
            assert!(lookup.name.ends_with(arpa), "{lookup:?}");
            assert_eq!(
                (lookup.verdict, lookup.rule.as_str(), lookup.qtype.as_str()),
                (Verdict::Allow, "built-in: reverse lookup", "PTR")
            );
            assert_eq!(run.subject(lookup.subject).argv[0], "getent");
            // Unless somebody minds.
            let run = world
                .guard()
                .policy(&format!("mode: enforce\nrules:\n  - deny: .{arpa}\n"))
                .arg(held)
                .run(&asks(address))
                .exits(2)
                .within(AT_ONCE);
            assert!(
                run.report()
                    .names
                    .iter()
                    .all(|name| name.verdict == Verdict::Deny)
            );
        }
    }
    // Such an answer gives nothing that permits.
    let script = format!("dig +short A {of_web}; exec 3<>/dev/tcp/{}/7", far.v4());
    let line = ["bash", "-c", &script];
    world.run(&line).succeeds().says(&far.v4().to_string());
    for held in HELD {
        let run = world.guard().policy(nothing).arg(held).run(&line).exits(1);
        let run = run.says(&far.v4().to_string());
        assert_eq!(run.verdict_on(of_web), Verdict::Allow);
        assert_eq!(run.flow(far.v4(), 7).verdict, Verdict::Deny);
    }
}

/// What a run makes of a lookup of each of these names, in their order: `true` for an answer.
fn answered(run: &Guarded, names: &[&str]) -> Vec<bool> {
    let mut lines = run.ended.stdout.lines();
    let told = |name: &&str| {
        let line = lines.next().unwrap_or_else(|| panic!("{run:?}"));
        let (code, of) = line.split_once(' ').unwrap();
        assert_eq!(of, *name);
        let verdict = run.verdict_on(name);
        assert_eq!(
            code == "0",
            verdict == Verdict::Allow,
            "{name}: {verdict:?}"
        );
        code == "0"
    };
    names.iter().map(told).collect()
}

/// The command that looks these names up.
fn looks_up(names: &[&str]) -> Vec<String> {
    let script = "for name; do getent hosts $name >/dev/null; echo $? $name; done";
    let mut line = ["sh", "-c", script, "sh"].map(str::to_owned).to_vec();
    line.extend(names.iter().map(|&name| name.to_owned()));
    line
}

/// Of these names, a rule about this pattern refuses or allows the ones that are expected, and no others.
#[track_caller]
fn names_by(
    world: &World,
    names: &[&str],
    pattern: &str,
    expected: &[bool],
    [denied, allowed]: [&Shown; 2],
) {
    let line = looks_up(names);
    for held in HELD {
        let guard = |policy: String| world.guard().policy(&policy).arg(held);
        let run = guard(format!("mode: enforce\nrules:\n  - deny: {pattern}\n"));
        let run = run.run(&line).exits(0);
        let refused: Vec<_> = answered(&run, names).iter().map(|it| !it).collect();
        assert_eq!(refused, expected, "deny {pattern}");
        denied.refused(&run);
        let run = guard(format!(
            "mode: enforce\ndefault: deny\nrules:\n  - allow: {pattern}\n"
        ));
        let run = run.run(&line).exits(0);
        assert_eq!(answered(&run, names), expected, "allow {pattern}");
        allowed.refused(&run);
    }
}

#[test]
fn a_pattern_is_for_the_names_that_it_says_and_for_no_other() {
    let denied = case!(
        21,
        "a name, those below it, and what only looks like them, by a deny-list"
    );
    let allowed = case!(
        21,
        "a name, those below it, and what only looks like them, by an allow-list"
    );
    let names = [
        "github.com",
        "api.github.com",
        "v3.api.github.com",
        "github.com.evil.example",
        "api.github.com.evil.example",
        "evilgithub.com",
        "github.com.example",
        "com.github",
        "github.co",
        "xn--github-.com",
    ];
    let (world, _) = World::with_web("patterns", &names);
    let line = looks_up(&names);
    let bare = world.run(&line);
    assert_eq!(bare.stdout.matches("0 ").count(), names.len(), "{bare:?}");
    denied.outside(&bare);
    allowed.outside(&bare);
    for (pattern, ours) in [
        ("github.com", [true, false, false]),
        ("\"*.github.com\"", [false, true, true]),
        (".github.com", [true, true, true]),
        ("\"*.api.github.com\"", [false, false, true]),
    ] {
        let of_pattern = |at: usize| ours.get(at).copied().unwrap_or(false);
        let expected: Vec<_> = (0..names.len()).map(of_pattern).collect();
        names_by(&world, &names, pattern, &expected, [&denied, &allowed]);
    }
}

#[test]
fn names_of_the_greatest_length_are_names() {
    let denied = case!(
        20,
        "the longest labels and the longest name, by a deny-list"
    );
    let allowed = case!(
        20,
        "the longest labels and the longest name, by an allow-list"
    );
    let label = |letter: &str| letter.repeat(63);
    let parent = format!("{}.{}.{}.example", label("b"), label("c"), "d".repeat(53));
    let longest = format!("{}.{parent}", label("a"));
    assert_eq!(longest.len(), 253);
    // One letter of it is another, at its far end and at its near one.
    let sibling = format!("{}e.{parent}", "a".repeat(62));
    let other = longest.replace("dd.example", "de.example");
    let short = format!("{}.example", label("s"));
    let names = [&longest, &sibling, &other, &short].map(String::as_str);
    let (world, web) = World::with_web("longest", &names);
    let line = looks_up(&names);
    let bare = world.run(&line);
    assert_eq!(bare.stdout.matches("0 ").count(), names.len(), "{bare:?}");
    denied.outside(&bare);
    allowed.outside(&bare);
    for (pattern, expected) in [
        (longest.clone(), [true, false, false, false]),
        (format!(".{parent}"), [true, true, false, false]),
        (format!("\"*.{parent}\""), [true, true, false, false]),
        (short.clone(), [false, false, false, true]),
    ] {
        names_by(&world, &names, &pattern, &expected, [&denied, &allowed]);
    }
    // It is leased by its whole name, and so is it told.
    for name in [&longest, &short] {
        let run = world
            .guard()
            .policy(&format!(
                "mode: enforce\ndefault: deny\nrules:\n  - allow: {name}\n"
            ))
            .run(&curl(name))
            .exits(0)
            .says("hello from github");
        let flows = run.flows(web.v4()).into_iter().chain(run.flows(web.v6()));
        let named: Vec<_> = flows
            .filter(|flow| flow.protocol == "tcp")
            .map(|flow| (flow.name.as_deref(), flow.verdict))
            .collect();
        assert!(
            !named.is_empty()
                && named
                    .iter()
                    .all(|it| *it == (Some(name.as_str()), Verdict::Allow)),
            "{named:?}"
        );
    }
}

#[test]
fn a_name_of_other_letters_is_the_same_however_it_is_written() {
    let denied = case!(20, "a name of other letters (IDN), by a deny-list");
    let allowed = case!(20, "a name of other letters (IDN), by an allow-list");
    let idn = "xn--bcher-kva.example";
    let (world, _) = World::with_web(
        "idn",
        &[idn, "bucher.example", "docs.xn--bcher-kva.example"],
    );
    let typed = [
        "bücher.example",
        "BÜCHER.Example",
        idn,
        "XN--Bcher-KVA.example",
    ];
    for written in [
        "bücher.example",
        "Bücher.EXAMPLE",
        "\"xn--bcher-kva.example\"",
    ] {
        let deny = format!("mode: enforce\nrules:\n  - deny: {written}\n");
        let allow = format!("mode: enforce\ndefault: deny\nrules:\n  - allow: {written}\n");
        for held in HELD {
            for name in typed {
                let bare = world.run(&curl(name)).says("hello from github");
                denied.outside(&bare);
                let run = world.guard().policy(&deny).arg(held).run(&curl(name));
                let run = run.exits(6).within(AT_ONCE);
                assert_eq!(run.verdict_on(idn), Verdict::Deny);
                denied.refused(&run);
                let run = world.guard().policy(&allow).arg(held).run(&curl(name));
                let run = run.exits(0).says("hello from github");
                assert_eq!(run.verdict_on(idn), Verdict::Allow);
            }
            for other in ["bucher.example", "docs.bücher.example"] {
                let bare = world.run(&curl(other)).says("hello from github");
                allowed.outside(&bare);
                world
                    .guard()
                    .policy(&deny)
                    .arg(held)
                    .run(&curl(other))
                    .exits(0);
                let run = world.guard().policy(&allow).arg(held).run(&curl(other));
                allowed.refused(&run.exits(6));
            }
        }
    }
}
