//! Lookups over TCP: read, judged and leased as those in datagrams are.

use std::time::{Duration, Instant};

use blackstart_core::report::{Outcome, Verdict};
use blackstart_lab::client::dns_tcp;
use blackstart_lab::{Dns, Guarded, Node, World, Zone, case};
use rustix::process::Signal;

/// "At once": a generous bound for a loaded test machine, far below any resolver's patience.
const AT_ONCE: Duration = Duration::from_secs(4);

/// A deny-list and an allow-list that agree on these names.
const LIVE: &str = "mode: enforce\nrules:\n  - deny: .github.com\n";
const REHEARSAL: &str = "mode: enforce\ndefault: deny\nrules:\n  - allow: .internal\n";

/// github.com and mirror.internal, each with an echo on port 7, and their name server.
fn world(test: &str) -> (World, Dns, Node) {
    let world = World::new(test);
    let (github, mirror) = (world.node("github"), world.node("mirror"));
    github.tcp_echo(7);
    mirror.tcp_echo(7);
    mirror.http();
    let dns = world.dns(
        Zone::new()
            .host("github.com", &github)
            .host("mirror.internal", &mirror)
            .host("slow.internal", &mirror)
            .slow("slow.internal", Duration::from_millis(400))
            .below("fresh.internal", &mirror),
    );
    (world, dns, mirror)
}

fn queries(run: &Guarded, name: &str) -> u64 {
    run.lookups(name).iter().map(|row| row.queries).sum()
}

fn gap(run: &Guarded, kind: &str) -> u64 {
    let gaps = &run.report().coverage.gaps;
    gaps.iter()
        .filter(|gap| gap.kind == kind)
        .map(|gap| gap.count)
        .sum()
}

#[test]
fn dig_is_answered_and_refused_as_over_udp() {
    let shown = case!(3, "asked for so");
    let (world, dns, mirror) = world("tcp_dig");
    let denied = ["dig", "+tcp", "+short", "A", "github.com"];
    shown.outside(&world.run(&denied).says("10.77.0."));
    let bare = dns.seen().len();
    for policy in [LIVE, REHEARSAL] {
        let run = world
            .guard()
            .policy(policy)
            .run(&["dig", "+tcp", "A", "mirror.internal"])
            .exits(0)
            .says(&mirror.v4().to_string())
            .within(AT_ONCE);
        assert_eq!(run.verdict_on("mirror.internal"), Verdict::Allow);
        // The attempt is one at the server, whoever read it.
        let flow = run.flow(dns.address(), 53);
        assert_eq!(
            (flow.protocol.as_str(), flow.verdict, flow.outcome),
            ("tcp", Verdict::Allow, Outcome::Connected)
        );
        assert_eq!(run.report().flows.len(), 1);
        assert!(run.gaps().is_empty(), "{:?}", run.gaps());
        let run = world
            .guard()
            .policy(policy)
            .run(&["dig", "+tcp", "A", "GitHub.com"])
            .exits(0)
            .says("status: NXDOMAIN")
            .says("EDE: 15")
            .says("GitHub.com.")
            .within(AT_ONCE);
        assert_eq!(run.verdict_on("github.com"), Verdict::Deny);
        shown.refused(&run);
    }
    let asked = &dns.seen()[bare..];
    assert!(
        asked.iter().all(|one| one.name != "github.com"),
        "{asked:?}"
    );
    // What is denied for the record only passes, and is recorded so.
    let run = world
        .guard()
        .policy("rules:\n  - deny: .github.com\n")
        .run(&["dig", "+tcp", "+short", "A", "github.com"])
        .exits(0)
        .says("10.77.0.");
    assert_eq!(run.verdict_on("github.com"), Verdict::WouldDeny);
}

#[test]
fn a_resolver_is_asked_over_either_family() {
    let (world, dns, mirror) = world("tcp_families");
    world.resolv_conf(&format!(
        "nameserver {}\nnameserver fd77::35\n",
        dns.address()
    ));
    let v4 = dns.address().to_string();
    for policy in [LIVE, REHEARSAL] {
        for server in [vec!["fd77::35"], vec![v4.as_str()], vec!["--mapped", &v4]] {
            let client = |name| dns_tcp(&[&["--peer"], &server[..], &[name]].concat());
            let run = world
                .guard()
                .policy(policy)
                .run(&client("mirror.internal"))
                .exits(0)
                // It sees the server that it asked.
                .says(&format!("{} 53\n", server.last().unwrap()))
                .says(&format!("mirror.internal 0 {}", mirror.v4()));
            assert!(run.gaps().is_empty(), "{:?}", run.gaps());
            let run = world
                .guard()
                .policy(policy)
                .run(&client("github.com"))
                .exits(0)
                .says("github.com 3\n");
            // Who asked is known.
            let asked = run.lookups("github.com");
            assert_eq!(asked.len(), 1);
            let chain = run.chain(asked[0].subject);
            assert!(chain[0].contains("dns_tcp.py"), "{chain:?}");
        }
    }
}

#[test]
fn a_truncated_answer_is_asked_for_again_over_tcp() {
    let shown = case!(3, "a cut answer is asked for again");
    let world = World::new("tcp_truncated");
    let web = world.node("web");
    web.http();
    // A chain that fits no answer of 512 octets, which is all that glibc takes in a datagram.
    let link = |n: usize| format!("{}{n}.internal", "a".repeat(59));
    let mut zone = Zone::new()
        .cname("big.internal", &link(0))
        .a(&link(10), web.v4());
    for n in 0..10 {
        zone = zone.cname(&link(n), &link(n + 1));
    }
    let dns = world.dns(zone);
    let curl = ["curl", "-sS4", "http://big.internal/"];
    shown.outside(&world.run(&curl));
    for policy in [LIVE, REHEARSAL] {
        let run = world
            .guard()
            .policy(policy)
            .run(&["curl", "-sS4", "http://big.internal/"])
            .exits(0)
            .says("hello from web");
        assert!(
            dns.seen().iter().any(|question| question.over == "tcp"),
            "this test is about a retry"
        );
        assert_eq!(run.verdict_on("big.internal"), Verdict::Allow);
        let asked = run.lookups("big.internal");
        assert!(asked[0].addresses.contains(&web.v4().into()), "{asked:?}");
        assert_eq!(run.flow(web.v4(), 80).name.as_deref(), Some("big.internal"));
    }
    // A denied name on the way, though its own name is allowed.
    let policy = format!("{REHEARSAL}  - deny: {}\n", link(4));
    shown.refused(&world.guard().policy(&policy).run(&curl).exits(7));
}

#[test]
fn glibc_over_tcp_leases_before_it_connects() {
    let shown = case!(3, "as the C library asks by `use-vc`");
    let (world, dns, mirror) = world("tcp_glibc");
    world.resolv_conf(&format!("nameserver {}\noptions use-vc\n", dns.address()));
    let fresh = "import socket\nrefused = 0\nfor n in range(200):\n  try: socket.create_connection((f'n{n}.fresh.internal', 7), 3).close()\n  except OSError as e: refused += 1; print(e)\nprint('refused', refused)";
    shown.outside(&world.run(&["getent", "hosts", "github.com"]));
    for policy in [LIVE, REHEARSAL] {
        let run = world
            .guard()
            .policy(policy)
            .run(&["/usr/bin/python3", "-c", fresh])
            .exits(0)
            .says("refused 0\n");
        let connects: u64 = [run.flows(mirror.v4()), run.flows(mirror.v6())]
            .concat()
            .iter()
            .filter(|flow| flow.protocol == "tcp" && flow.name.is_some())
            .map(|flow| flow.attempts)
            .sum();
        assert!(connects >= 200, "each under its name: {connects}");
        assert!(run.gaps().is_empty(), "{:?}", run.gaps());
        let run = world
            .guard()
            .policy(policy)
            .run(&["getent", "hosts", "github.com"])
            .exits(2)
            .within(AT_ONCE);
        assert_eq!(run.verdict_on("github.com"), Verdict::Deny);
        shown.refused(&run);
    }
    assert!(dns.seen().iter().all(|question| question.over == "tcp"));
}

#[test]
fn each_message_of_a_stream_is_judged_however_it_is_cut() {
    let several = case!(4);
    let split = case!(5);
    let (world, dns, mirror) = world("tcp_pipelined");
    let server = dns.address().to_string();
    let names = ["mirror.internal", "github.com", "one.fresh.internal"];
    for cut in [&[][..], &["--split"]] {
        let ask = |options: &[&str]| dns_tcp(&[cut, options, &[&server], &names].concat());
        let shown = if cut.is_empty() { &several } else { &split };
        shown.outside(&world.run(&ask(&[])).says("github.com 0 10.77.0."));
        for (policy, more) in [
            (LIVE, "--no-contain"),
            (LIVE, "--contain"),
            (REHEARSAL, "--no-contain"),
            (REHEARSAL, "--contain"),
        ] {
            let run = world
                .guard()
                .policy(policy)
                .arg(more)
                .run(&ask(&["--half", "--connect", "7"]))
                .exits(0)
                .says("github.com 3\n")
                .says(&format!("mirror.internal 0 {}", mirror.v4()))
                .says("reached mirror.internal ping")
                .says("reached one.fresh.internal ping")
                // Nothing more comes, and neither side waits for the other.
                .says("closed\n")
                .within(AT_ONCE);
            assert_eq!(run.verdict_on("github.com"), Verdict::Deny);
            assert_eq!(run.verdict_on("one.fresh.internal"), Verdict::Allow);
            let named = run.gaps().into_iter().filter(|gap| *gap != "contain");
            assert_eq!(named.count(), 0, "{:?}", run.gaps());
            shown.refused(&run);
        }
    }
    // Twice by the bare clients, and never else.
    let asked = dns.seen();
    let leaked = asked
        .iter()
        .filter(|question| question.name == "github.com");
    assert_eq!(leaked.count(), 2);
}

/// What a run makes of a lookup whose supervisor was sent a signal, and how it ended if that lives.
fn without_supervisor(
    world: &World,
    dns: &Dns,
    policy: &str,
    signal: Signal,
) -> (String, Option<Guarded>) {
    let ask = dns_tcp(&[&dns.address().to_string(), "mirror.internal"]).join(" ");
    // A supervisor that is only stopped may have taken one connection more.
    let script = format!(
        "{ask}; echo ready; until [ -e go ]; do sleep 0.05; done\n\
         for n in 1 2 3; do {ask} >answer; grep -q silent answer || break; done; mv answer after\n\
         until [ -e stop ]; do sleep 0.05; done; {ask}"
    );
    let mut run = world.guard().policy(policy).start(&["sh", "-c", &script]);
    run.running().wait_for("ready");
    assert!(run.running().stdout().contains("mirror.internal 0 10.77"));
    run.running().signal(signal);
    let mut run = Some(run);
    if signal == Signal::KILL {
        let killed = run.take().map(|run| run.wait().ended.code);
        assert_eq!(killed, Some(128 + 9));
    }
    std::fs::write(world.dir().join("go"), "").unwrap();
    let (begin, after) = (Instant::now(), world.dir().join("after"));
    while !after.exists() {
        assert!(begin.elapsed() < Duration::from_secs(60), "no answer");
        std::thread::sleep(Duration::from_millis(20));
    }
    let said = std::fs::read_to_string(after).unwrap();
    if let Some(run) = &mut run {
        run.running().signal(Signal::CONT);
    }
    std::fs::write(world.dir().join("stop"), "").unwrap();
    (said, run.map(|run| run.wait().exits(0)))
}

/// The report of the one run of this world that lost its supervisor, once it is swept.
fn adopted(world: &World) -> serde_json::Value {
    let begin = Instant::now();
    while !world.left_behind().is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(20));
        world.guard().run(&["true"]).exits(0);
    }
    let runs = std::fs::read_dir(world.guard().state().join("runs")).unwrap();
    let reports = runs.flatten().map(|run| run.path().join("report.json"));
    let reports = reports.filter_map(|path| std::fs::read_to_string(path).ok());
    let mut adopted = reports.filter(|text| text.contains("dns_tcp.py"));
    serde_json::from_str(&adopted.next().expect("the orphan's record is kept")).unwrap()
}

#[test]
fn a_killed_supervisor_turns_nothing() {
    let gap = |report: &serde_json::Value| {
        let gaps = report["coverage"]["gaps"].as_array().unwrap().clone();
        let mut found = gaps.iter().filter(|gap| gap["kind"] == "dns_over_tcp");
        found.next().map(|gap| gap["count"].as_u64().unwrap())
    };
    let (world, dns, _) = world("tcp_killed_live");
    let (said, _) = without_supervisor(&world, &dns, LIVE, Signal::KILL);
    assert!(said.contains("mirror.internal 0 10.77"), "{said}");
    assert_eq!(gap(&adopted(&world)), Some(2));
    drop(world);

    let (world, dns, _) = self::world("tcp_killed_deny");
    let (said, _) = without_supervisor(&world, &dns, REHEARSAL, Signal::KILL);
    assert_eq!(said, "refused\n");
    let report = adopted(&world);
    assert_eq!(gap(&report), None);
    let flows = report["flows"].as_array().unwrap();
    let of = |verdict: &str| {
        let rows = flows
            .iter()
            .filter(|flow| flow["port"] == 53 && flow["verdict"] == verdict);
        rows.map(|flow| flow["attempts"].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!((of("allow"), of("deny")), (1, 2));
}

#[test]
fn a_stopped_supervisor_turns_nothing_until_it_goes_on() {
    let (world, dns, _) = world("tcp_stopped");
    let (said, run) = without_supervisor(&world, &dns, LIVE, Signal::STOP);
    assert!(said.contains("mirror.internal 0 10.77"), "{said}");
    let run = run.unwrap();
    assert_eq!(gap(&run, "dns_over_tcp"), 1);
    // Before and after, they were read.
    assert!(queries(&run, "mirror.internal") >= 2);
    drop(world);

    let (world, dns, _) = self::world("tcp_stopped_deny");
    let (said, run) = without_supervisor(&world, &dns, REHEARSAL, Signal::STOP);
    assert_eq!(said, "refused\n");
    let run = run.unwrap().says("mirror.internal 0 10.77");
    assert!(queries(&run, "mirror.internal") >= 2);
}

#[test]
fn nobody_else_is_served() {
    let (world, dns, _) = world("tcp_stranger");
    let stranger = dns_tcp(&["127.0.0.1", "mirror.internal", "--port"]).join(" ");
    // The run itself is none of its clients either, unless it was turned there.
    let script = format!(
        "ss -Hltn; echo ready; until [ -e go ]; do sleep 0.05; done\n\
         {stranger} $(ss -Hltn | sed -n 's/.*127.0.0.1:\\([0-9]*\\) .*/\\1/p' | head -1)"
    );
    for policy in [LIVE, REHEARSAL] {
        let _ = std::fs::remove_file(world.dir().join("go"));
        let mut run = world.guard().policy(policy).start(&["sh", "-c", &script]);
        run.running().wait_for("ready");
        let listening = run.running().stdout();
        let on: Vec<&str> = listening
            .lines()
            .filter_map(|line| line.split_whitespace().nth(3))
            .collect();
        let [at] = on[..] else {
            panic!("one socket for the one server, of IPv4: {listening}");
        };
        let port = at.strip_prefix("127.0.0.1:").expect("on loopback only");
        let asked = dns_tcp(&["127.0.0.1", "mirror.internal", "--port", port]);
        let cut_off = |said: &str| said == "reset\n" || said == "closed\n";
        let outside = world.run(&asked);
        assert!(cut_off(&outside.stdout), "{outside:?}");
        std::fs::write(world.dir().join("go"), "").unwrap();
        let run = run.wait();
        let inside = run.ended.stdout.rsplit_once("ready\n").unwrap().1;
        assert!(cut_off(inside), "{run:?}");
    }
    assert!(!dns.was_asked("mirror.internal"));
}

#[test]
fn two_runs_at_once_have_a_forwarder_each() {
    let (world, dns, _) = world("tcp_two");
    let ask = dns_tcp(&[&dns.address().to_string(), "github.com", "mirror.internal"]).join(" ");
    let script = format!(
        "echo ready; until [ -e go ]; do sleep 0.05; done; for n in $(seq 20); do {ask}; done"
    );
    let start = |denied: &str| {
        let policy = format!("mode: enforce\nrules:\n  - deny: {denied}\n");
        world.guard().policy(&policy).start(&["sh", "-c", &script])
    };
    let (mut one, mut two) = (start("github.com"), start("mirror.internal"));
    one.running().wait_for("ready");
    two.running().wait_for("ready");
    std::fs::write(world.dir().join("go"), "").unwrap();
    for (run, denied, allowed) in [
        (one, "github.com", "mirror.internal"),
        (two, "mirror.internal", "github.com"),
    ] {
        let run = run.wait().exits(0);
        let said = |line: String| {
            run.ended
                .stdout
                .lines()
                .filter(|said| **said == *line || said.starts_with(&format!("{line} ")))
                .count()
        };
        assert_eq!(said(format!("{denied} 3")), 20);
        assert_eq!(said(format!("{allowed} 0")), 20);
        assert_eq!(queries(&run, denied), 20);
        assert!(run.gaps().is_empty(), "{:?}", run.gaps());
    }
}

#[test]
fn a_run_within_a_run_is_read_by_both() {
    let (world, dns, _) = world("tcp_nested");
    let mut inner = world
        .guard()
        .policy("mode: enforce\nrules:\n  - deny: github.com\n")
        .line();
    inner.extend(dns_tcp(&[
        &dns.address().to_string(),
        "github.com",
        "mirror.internal",
        "one.fresh.internal",
    ]));
    let run = world
        .guard()
        .policy("mode: enforce\nrules:\n  - deny: mirror.internal\n")
        .run(&inner)
        .exits(0)
        .says("github.com 3\n")
        .says("mirror.internal 3\n")
        .says("one.fresh.internal 0 10.77");
    assert_eq!(run.verdict_on("mirror.internal"), Verdict::Deny);
    assert!(
        run.lookups("github.com").is_empty(),
        "the inner one keeps it"
    );
}

#[test]
fn in_another_network_namespace_nothing_is_turned() {
    let (world, dns, _) = world("tcp_elsewhere");
    let elsewhere = world.node("elsewhere");
    let mut ask = vec![
        "nsenter".to_owned(),
        format!("--net={}", elsewhere.namespace().display()),
    ];
    ask.extend(dns_tcp(&[&dns.address().to_string(), "mirror.internal"]));
    world.run(&ask).succeeds().says("mirror.internal 0 10.77");
    let run = world
        .guard()
        .policy(LIVE)
        .run(&ask)
        .exits(0)
        .says("mirror.internal 0 10.77");
    assert_eq!(gap(&run, "dns_over_tcp"), 1);
    assert!(run.lookups("mirror.internal").is_empty());
    let run = world
        .guard()
        .policy(REHEARSAL)
        // Contained, root enters no other namespace at all.
        .arg("--no-contain")
        .run(&ask)
        .exits(1)
        .says("refused");
    assert_eq!(run.flow(dns.address(), 53).verdict, Verdict::Deny);
}

#[test]
fn without_loopback_it_is_a_gap() {
    let (world, dns, _) = world("tcp_no_loopback");
    world.run(&["ip", "link", "set", "lo", "down"]).succeeds();
    let ask = dns_tcp(&[&dns.address().to_string(), "mirror.internal"]);
    let detail = |run: &Guarded| {
        let gaps = &run.report().coverage.gaps;
        gaps.iter()
            .any(|gap| gap.kind == "dns_over_tcp" && gap.detail.contains("127.0.0.1"))
    };
    let run = world
        .guard()
        .policy(LIVE)
        .run(&ask)
        .exits(0)
        .says("mirror.internal 0 10.77");
    assert!(detail(&run), "{:?}", run.report().coverage);
    assert_eq!(gap(&run, "dns_over_tcp"), 1);
    let run = world
        .guard()
        .policy(REHEARSAL)
        .run(&ask)
        .exits(1)
        .says("refused");
    assert!(detail(&run), "{:?}", run.report().coverage);
}

#[test]
fn a_server_that_is_down_or_slow_is_so_for_the_client() {
    let (world, dns, _) = world("tcp_slow");
    let server = dns.address().to_string();
    // Nobody listens on the host itself, which a policy may name as a server all the same.
    world.resolv_conf(&format!(
        "nameserver {server}\nnameserver {}\n",
        world.host().v4()
    ));
    let down = dns_tcp(&[&world.host().v4().to_string(), "mirror.internal"]);
    world.run(&down).exits(1).says("refused");
    for policy in [LIVE, REHEARSAL] {
        world
            .guard()
            .policy(policy)
            .run(&down)
            .says("reset\n")
            .within(AT_ONCE);
        let run = world
            .guard()
            .policy(policy)
            .run(&dns_tcp(&[&server, "slow.internal"]))
            .exits(0)
            .says("slow.internal 0 10.77");
        assert!(run.ended.took >= Duration::from_millis(400));
    }
}

#[test]
fn what_cannot_be_judged_is_refused_in_enforce_and_a_gap_in_observe() {
    let (world, dns, _) = world("tcp_malformed");
    let server = dns.address().to_string();
    // One label, `github.com`, dot and all.
    let ask = dns_tcp(&[
        "--raw",
        "000701000001000000000000\
         0a6769746875622e636f6d0000010001",
        &server,
    ]);
    world.run(&ask).succeeds().says("? 3\n");
    let run = world.guard().policy(LIVE).run(&ask).exits(0).says("? 1\n");
    assert_eq!(gap(&run, "queries_malformed"), 1);
    let asked = dns.seen().len();
    let run = world.guard().run(&ask).exits(0).says("? 3\n");
    assert_eq!(gap(&run, "queries_malformed"), 1);
    assert_eq!(dns.seen().len(), asked + 1);
    // Half a header has no answer.
    let short = dns_tcp(&["--raw", "000701", &server]);
    let run = world
        .guard()
        .policy(LIVE)
        .run(&short)
        .exits(0)
        .says("closed");
    assert_eq!(gap(&run, "queries_malformed"), 1);
}

#[test]
fn a_policy_that_takes_over_judges_from_then_on() {
    let (world, dns, _) = world("tcp_reload");
    let ask = dns_tcp(&[&dns.address().to_string(), "github.com", "mirror.internal"]).join(" ");
    let script = format!("{ask}; echo first; until [ -e go ]; do sleep 0.05; done; {ask}");
    let whole = |rules: &str| {
        format!("apiVersion: blackstart.dev/v1\nkind: Policy\nmode: enforce\nrules:\n  - {rules}\n")
    };
    let file = world.file("changing.yaml", &whole("deny: github.com"));
    let mut run = world
        .guard()
        .policy_path(&file)
        .arg("--service=changing")
        .start(&["sh", "-c", &script]);
    run.running().wait_for("first");
    std::fs::write(&file, whole("deny: mirror.internal")).unwrap();
    world.guard().blackstart(&["reload", "changing"]).exits(0);
    std::fs::write(world.dir().join("go"), "").unwrap();
    let run = run.wait().exits(0);
    let (first, second) = run.ended.stdout.split_once("first\n").unwrap();
    assert!(first.contains("github.com 3\n") && first.contains("mirror.internal 0 "));
    assert!(second.contains("github.com 0 ") && second.contains("mirror.internal 3\n"));
    let rules: Vec<_> = ["github.com", "mirror.internal"]
        .iter()
        .flat_map(|name| run.lookups(name))
        .filter(|lookup| lookup.verdict == Verdict::Deny)
        .map(|lookup| lookup.rule.clone())
        .collect();
    assert_eq!(rules.len(), 2);
    assert_ne!(rules[0], rules[1], "each by the rule that denied it");
}

#[test]
fn leftovers_that_are_waited_for_are_served() {
    let (world, dns, mirror) = world("tcp_leftover");
    let ask = dns_tcp(&[
        "--connect",
        "7",
        &dns.address().to_string(),
        "mirror.internal",
    ])
    .join(" ");
    let script = format!(
        "setsid sh -c 'until [ -e go ]; do sleep 0.05; done; for n in $(seq 10); do {ask}; done' & echo main"
    );
    let mut run = world
        .guard()
        .policy(REHEARSAL)
        .arg("--leftover=wait")
        .start(&["sh", "-c", &script]);
    run.running().wait_for("main");
    std::thread::sleep(Duration::from_millis(300));
    std::fs::write(world.dir().join("go"), "").unwrap();
    let run = run.wait().exits(0);
    assert_eq!(run.ended.stdout.matches("reached").count(), 10, "{run:?}");
    let flows = run.flows(mirror.v4());
    assert!(flows.iter().all(|flow| flow.verdict == Verdict::Allow));
}
