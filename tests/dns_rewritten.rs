//! Name servers whose address is rewritten on the way: a container's 127.0.0.11, a cluster's service address.

use std::time::Duration;

use blackstart_core::report::Verdict;
use blackstart_lab::client::{dns_tcp, musl_lookup, reach};
use blackstart_lab::{Dns, Guarded, World, Zone, case};

/// Where the name server is on the wire, beside which nothing is named.
const PORT: u16 = 5353;

/// "At once": a generous bound for a loaded test machine, far below any patience of TCP's.
const AT_ONCE: Duration = Duration::from_secs(4);

/// Asks with what a query must not look like, over a connected socket and an unconnected one, and tells of each whether
/// the kernel took it. `gso`: two sound queries in one buffer.
const SEND: &str = "import socket,sys\n\
    server, how = sys.argv[1:]\n\
    v6 = ':' in server\n\
    name = b'\\x06mirror\\x08internal\\x00\\x00\\x01\\x00\\x01'\n\
    def query(questions): return b'\\x12\\x34\\x01\\x00\\x00' + bytes([questions]) + bytes(6) + name * questions\n\
    def attempt(what, act):\n\
    \x20 s = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)\n\
    \x20 packet = query(2)\n\
    \x20 if how == 'gso': s.setsockopt(socket.SOL_UDP, 103, len(query(1))); packet = query(1) * 2\n\
    \x20 try: act(s, packet); print(what, 'sent')\n\
    \x20 except OSError: print(what, 'refused')\n\
    def connected(s, packet): s.connect((server, 53)); s.send(packet)\n\
    attempt('connected', connected)\n\
    attempt('unconnected', lambda s, packet: s.sendto(packet, (server, 53)))\n";

/// A host whose name server is asked at `asked` and found, by nftables, at `found`.
fn rewritten(world: &World, asked: &str, found: &str) {
    let (family, route) = if asked.contains(':') {
        ("ip6", format!("ip -6 route add {asked}/128 dev eth0"))
    } else {
        ("ip", format!("ip route add {asked}/32 dev eth0"))
    };
    let script = format!(
        "set -e\n\
         case {asked} in 127.*) ;; *) {route} ;; esac\n\
         nft -f - <<'END'\n\
         add table {family} rewritten\n\
         add chain {family} rewritten out {{ type nat hook output priority -100; }}\n\
         add rule {family} rewritten out {family} daddr {asked} udp dport 53 dnat to {found}\n\
         add rule {family} rewritten out {family} daddr {asked} tcp dport 53 dnat to {found}\n\
         END\n"
    );
    world.run(&["sh", "-c", &script]).succeeds();
    world.resolv_conf(&format!("nameserver {asked}\n"));
}

/// Each way in which a name server is rewritten: its port as well (a container's own resolver on loopback), its
/// address only (a cluster), and both over IPv6.
fn each_way(test: &str, act: impl Fn(&World, &str)) {
    for (way, asked) in [
        ("docker", "127.0.0.11"),
        ("cluster", "10.96.0.10"),
        ("cluster6", "fd96::10"),
    ] {
        let world = World::new(&format!("{test}{way}"));
        let (github, mirror) = (world.node("github"), world.node("mirror"));
        github.http();
        mirror.http();
        mirror.tcp_echo(7);
        let zone = Zone::new()
            .host("github.com", &github)
            .host("mirror.internal", &mirror);
        let found = match way {
            "docker" => {
                Dns::start_on(world.host(), PORT, zone);
                format!("{}:{PORT}", world.host().v4())
            }
            "cluster" => world.dns(zone).address().to_string(),
            _ => {
                let node = world.node("resolver");
                Dns::start_on(&node, PORT, zone);
                format!("[{}]:{PORT}", node.v6())
            }
        };
        rewritten(&world, asked, &found);
        act(&world, asked);
    }
}

#[test]
fn lookups_are_judged_and_leased_as_if_nothing_were_rewritten() {
    let shown = case!(13, "a server whose address is rewritten");
    each_way("lookups", |world, asked| {
        let musl = musl_lookup(world);
        shown.outside(&world.run(&["curl", "-sS", "http://github.com/"]));
        for policy in [
            "mode: enforce\nrules:\n  - deny: github.com\n",
            "mode: enforce\ndefault: deny\nrules:\n  - allow: mirror.internal\n",
        ] {
            // A connected socket (glibc), and an unconnected one whose answer must come from the address asked.
            let curl = ["curl", "-sS", "http://mirror.internal/"];
            let run = world
                .guard()
                .policy(policy)
                .run(&curl)
                .exits(0)
                .says("hello from mirror");
            assert_eq!(run.verdict_on("mirror.internal"), Verdict::Allow);
            assert!(
                run.report()
                    .flows
                    .iter()
                    .any(|flow| flow.name.as_deref() == Some("mirror.internal")),
                "{asked}: {:#?}",
                run.report().flows
            );
            world
                .guard()
                .policy(policy)
                .run(&[musl.as_str(), "mirror.internal"])
                .exits(0);
            for denied in [
                &["curl", "-sS", "http://github.com/"][..],
                &[&musl, "github.com"],
            ] {
                let run = world
                    .guard()
                    .policy(policy)
                    .run(denied)
                    .within(Duration::from_secs(4));
                assert!((1..120).contains(&run.ended.code), "{asked}: {run:?}");
                assert_eq!(run.verdict_on("github.com"), Verdict::Deny);
                shown.refused(&run);
            }
            // Whoever is told by name error is told from the server that was asked.
            world
                .guard()
                .policy(policy)
                .run(&["dig", "A", "github.com"])
                .exits(0)
                .says("status: NXDOMAIN")
                .says("EDE: 15")
                .within(Duration::from_secs(4));
        }
    });
}

#[test]
fn what_cannot_be_read_does_not_pass_for_being_rewritten() {
    each_way("unread", |world, asked| {
        let rules = "rules:\n  - deny: github.com\n";
        for how in ["questions", "gso"] {
            let send = ["/usr/bin/python3", "-c", SEND, asked, how];
            world
                .run(&send)
                .says("connected sent")
                .says("unconnected sent");
            let run = |policy: &str| world.guard().policy(policy).run(&send).exits(0);
            let unread = |run: &Guarded| {
                let gaps = &run.report().coverage.gaps;
                let gap = gaps.iter().find(|gap| gap.kind == "queries_malformed");
                gap.map_or(0, |gap| gap.count)
            };
            let enforced = run(&format!("mode: enforce\n{rules}")).says("connected refused\n");
            assert_eq!(unread(&enforced), 2, "{asked}, {how}: {enforced:?}");
            let listed = run("mode: enforce\ndefault: deny\nrules:\n  - allow: mirror.internal\n")
                .says("connected refused\n")
                .says("unconnected refused\n");
            assert_eq!(unread(&listed), 2, "{asked}, {how}");
            let observed = run(rules)
                .says("connected sent\n")
                .says("unconnected sent\n");
            assert_eq!(unread(&observed), 2, "{asked}, {how}");
        }
    });
}

/// Over TCP they go to the forwarder, which asks the server as it was asked for: what is rewritten is its own connection.
#[test]
fn lookups_over_tcp_are_judged_and_leased_as_if_nothing_were_rewritten() {
    let shown = case!(13, "a server whose address is rewritten, over TCP");
    each_way("tcp", |world, asked| {
        // As the C library asks by `use-vc`, as a tool does that is told to, and by hand: a leased address is connected to as soon as the
        // answer is there.
        let vc = |name: &str| {
            let url = format!("http://{name}/");
            ["env", "RES_OPTIONS=use-vc", "curl", "-sS", &url].map(str::to_owned)
        };
        let dig = ["dig", "+tcp", "+tries=1", "+timeout=5", "A"];
        let dig = |name: &'static str| [&dig[..], &[name]].concat();
        let by_hand = dns_tcp(&["--peer", asked, "mirror.internal", "github.com"]);
        let (github, mirror) = (
            world.run(&dig("github.com")),
            world.run(&dig("mirror.internal")),
        );
        let address = |ended: &blackstart_lab::Ended| {
            let mut words = ended.stdout.lines().filter(|line| line.contains("\tA\t"));
            let line = words.next().unwrap_or_else(|| panic!("{asked}: {ended:?}"));
            line.rsplit('\t').next().unwrap().to_owned()
        };
        let (github, mirror) = (address(&github), address(&mirror));
        shown.outside(&world.run(&vc("github.com")).says("hello from github"));
        shown.outside(&world.run(&by_hand).says(&format!("github.com 0 {github}")));
        for (policy, held) in [
            (
                "mode: enforce\nrules:\n  - deny: github.com\n",
                "--no-contain",
            ),
            ("mode: enforce\nrules:\n  - deny: github.com\n", "--contain"),
            (
                "mode: enforce\ndefault: deny\nrules:\n  - allow: mirror.internal\n",
                "--no-contain",
            ),
            (
                "mode: enforce\ndefault: deny\nrules:\n  - allow: mirror.internal\n",
                "--contain",
            ),
        ] {
            let guard = || world.guard().policy(policy).arg(held);
            let run = guard()
                .run(&vc("mirror.internal"))
                .exits(0)
                .says("hello from mirror");
            assert_eq!(run.verdict_on("mirror.internal"), Verdict::Allow);
            let flows = run.report().flows.iter();
            let named: Vec<_> = flows
                .filter(|flow| {
                    flow.name.as_deref() == Some("mirror.internal") && flow.protocol == "tcp"
                })
                .map(|flow| (flow.port, flow.verdict))
                .collect();
            assert_eq!(named, [(80, Verdict::Allow)], "{asked}: {run:?}");
            // The server is a destination as it was asked for, by streams only, and all of it was seen.
            assert!(
                !run.gaps().contains("dns_over_tcp"),
                "{asked}: {:?}",
                run.gaps()
            );
            let server: std::net::IpAddr = asked.parse().unwrap();
            let to_server = run.flows(server);
            assert!(
                !to_server.is_empty()
                    && (to_server.iter()).all(|flow| flow.protocol == "tcp" && flow.port == 53),
                "{asked}: {to_server:#?}"
            );
            // Denied: at once, with a name error, and nothing goes to the address.
            let run = guard().run(&vc("github.com")).exits(6).within(AT_ONCE);
            assert_eq!(run.verdict_on("github.com"), Verdict::Deny);
            let to: std::net::IpAddr = github.parse().unwrap();
            assert!(run.flows(to).is_empty(), "{asked}: {run:?}");
            shown.refused(&run);
            let run = guard().run(&dig("github.com")).exits(0).within(AT_ONCE);
            let run = run.says("status: NXDOMAIN").says("EDE: 15");
            assert_eq!(run.verdict_on("github.com"), Verdict::Deny);
            shown.refused(&run);
            // Both in one stream; whoever asks whom it is connected to is told whom it asked for.
            let run = guard().run(&by_hand).exits(0);
            let run = run
                .says(&format!("peer {asked} 53\n"))
                .says(&format!("mirror.internal 0 {mirror}\n"))
                .says("github.com 3\n");
            assert_eq!(run.verdict_on("mirror.internal"), Verdict::Allow);
            assert_eq!(run.verdict_on("github.com"), Verdict::Deny);
            // An address is leased before the answer can be read.
            let at_once = dns_tcp(&["--connect", "7", asked, "mirror.internal"]);
            guard()
                .run(&at_once)
                .exits(0)
                .says("reached mirror.internal ping");
            // Without a lookup it has no name, and by an allow-list no permission.
            if policy.contains("default: deny") {
                let reach = reach("tcp", &mirror, 80);
                let run = guard().run(&reach).exits(1).says("ECONNREFUSED");
                assert!(
                    run.flows(mirror.parse::<std::net::IpAddr>().unwrap())
                        .iter()
                        .all(|flow| flow.verdict == Verdict::Deny)
                );
            }
        }
    });
}
