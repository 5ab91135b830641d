//! A policy as a team lives with it: for one program only, for a while, as a trial, changed while the run is on,
//! and set aside in an emergency.

use std::time::Duration;

use blackstart_core::report::Verdict;
use blackstart_lab::client::reach;
use blackstart_lab::{World, Zone, case};

/// A world with a server that is to be out of reach, and its name service.
fn world(test: &str) -> (World, blackstart_lab::Node) {
    World::with_web(test, &["github.com", "api.github.com"])
}

const CURL: &[&str] = &[
    "curl",
    "-sS",
    "-m",
    "20",
    "-o",
    "/dev/null",
    "http://api.github.com/",
];
const PYTHON: &str = "import urllib.request as r; r.urlopen('http://api.github.com/', timeout=20)";

#[test]
fn a_waiver_is_for_the_program_that_it_names() {
    let (world, _) = world("waiver");
    let policy = "mode: enforce\nrules:\n  - deny: .github.com\nwaivers:\n  - for: api.github.com\n    process: curl\n    owner: team-db\n    reason: until the mirror has it\n    expires: 2999-12-31\n";
    let waived = world.guard().policy(policy).run(CURL).exits(0);
    assert_eq!(waived.verdict_on("api.github.com"), Verdict::Waived);
    let other = ["/usr/bin/python3", "-c", PYTHON];
    let refused = world.guard().policy(policy).run(&other).exits(1);
    assert_eq!(refused.verdict_on("api.github.com"), Verdict::Deny);
    // What a shell starts is curl, whoever started it.
    let line = CURL.join(" ");
    world
        .guard()
        .policy(policy)
        .run(&["sh", "-c", &line])
        .exits(0);
}

#[test]
fn an_expired_waiver_has_no_effect_and_is_told() {
    let (world, _) = world("expired");
    let policy = "mode: enforce\nrules:\n  - deny: .github.com\nwaivers:\n  - for: api.github.com\n    owner: team-db\n    reason: it was urgent\n    expires: 2020-01-01\n";
    let run = world.guard().policy(policy).run(CURL).exits(6);
    assert_eq!(run.findings("waiver_expired").len(), 1);
}

#[test]
fn a_rule_for_what_a_program_starts_holds_for_its_children() {
    let (world, _) = world("ancestor");
    let policy = "mode: enforce\nrules:\n  - deny: .github.com\n    process: ancestor:env\n";
    let line = CURL.join(" ");
    world.guard().policy(policy).run(CURL).exits(0);
    let below = ["env", "sh", "-c", &format!("sh -c '{line}'; exit $?")];
    world.guard().policy(policy).run(&below).exits(6);
}

#[test]
fn one_rule_enforces_while_the_rest_observes_and_the_other_way_round() {
    let (world, github) = world("modes");
    let address = github.v4().to_string();
    let trial = format!(
        "mode: enforce\nrules:\n  - deny: .github.com\n    mode: observe\n  - deny: {address}:9\n"
    );
    let run = world.guard().policy(&trial).run(CURL).exits(0);
    assert_eq!(run.verdict_on("api.github.com"), Verdict::WouldDeny);
    world
        .guard()
        .policy(&trial)
        .run(&reach("tcp", &address, 9))
        .exits(1);
    let one = format!("rules:\n  - deny: .github.com\n  - deny: {address}:80\n    mode: enforce\n");
    let run = world
        .guard()
        .policy(&one)
        .run(&reach("tcp", &address, 80))
        .exits(1);
    assert_eq!(run.flow(github.v4(), 80).verdict, Verdict::Deny);
}

#[test]
fn a_denied_attempt_ends_as_the_rule_says() {
    let (world, github) = world("failure");
    let address = github.v4().to_string();
    let with = |on_match: &str| {
        let policy =
            format!("mode: enforce\nrules:\n  - deny: {address}\n    on_match: {on_match}\n");
        world.guard().policy(&policy)
    };
    for (on_match, said) in [
        ("refuse", "ECONNREFUSED"),
        ("refuse EHOSTUNREACH", "EHOSTUNREACH"),
        ("reset", "ECONNRESET"),
    ] {
        let run = with(on_match).run(&reach("tcp", &address, 80)).exits(1);
        assert!(
            run.ended.stdout.contains(said),
            "{on_match}: {:?}",
            run.ended
        );
    }
    let url = format!("http://{address}/");
    let lost = ["curl", "-sS", "-m", "2", "-o", "/dev/null", &url];
    with("blackhole").run(&lost).exits(28);
}

#[test]
fn a_refusal_may_fail_a_run_that_succeeded() {
    let (world, _) = world("reaction");
    let line = format!("{} || true", CURL.join(" "));
    let shell = ["sh", "-c", &line];
    let deny = "mode: enforce\nrules:\n  - deny: .github.com\n";
    world.guard().policy(deny).run(&shell).exits(0);
    let gates = format!("{deny}    reaction: fail\n");
    world.guard().policy(&gates).run(&shell).exits(120);
    // For the record only, it gates nothing.
    let observed = gates.replace("mode: enforce", "mode: observe");
    world.guard().policy(&observed).run(&shell).exits(0);
}

#[test]
fn a_daemons_socket_is_refused_by_a_rule() {
    let shown = case!(43, "by a rule about the daemon's socket");
    let (world, _) = world("unix");
    let path = world.dir().join("daemon.sock");
    let _daemon = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let path = path.to_string_lossy();
    let code = "import socket,sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])";
    let client = ["/usr/bin/python3", "-c", code, &path];
    let policy = format!("mode: enforce\nrules:\n  - deny: unix:{path}\n");
    shown.outside(&world.run(&client));
    world
        .guard()
        .policy("mode: enforce\n")
        .run(&client)
        .exits(0);
    shown.refused(&world.guard().policy(&policy).run(&client).exits(1));
}

#[test]
fn the_policy_of_a_run_is_changed_while_it_is_on() {
    let shown = case!(62, "a change of policy");
    let (world, _) = world("reload");
    let go = world.dir().join("go");
    let script = format!(
        "{curl}; echo first $?; while [ ! -e {go} ]; do sleep 0.05; done; {curl}; echo second $?",
        curl = CURL.join(" "),
        go = go.display()
    );
    let file = world.file("changing.yaml", &whole("rules: []"));
    let mut run = world
        .guard()
        .policy_path(&file)
        .arg("--service=changing")
        .start(&["sh", "-c", &script]);
    run.running().wait_for("first 0");
    // A policy that is wrong changes nothing, and says why.
    std::fs::write(&file, whole("rulez: []")).unwrap();
    world
        .guard()
        .blackstart(&["reload", "changing"])
        .exits(125)
        .warns("rules");
    std::fs::write(
        &file,
        whole("rules:\n  - deny: .github.com\n    reason: changed"),
    )
    .unwrap();
    world
        .guard()
        .blackstart(&["reload", "changing"])
        .exits(0)
        .warns("1 rule");
    std::fs::write(&go, "").unwrap();
    let ended = run.wait().exits(0).says("second 6");
    assert_eq!(ended.report().run.reloads.len(), 1);
    let verdicts: std::collections::BTreeSet<_> = ended
        .lookups("api.github.com")
        .iter()
        .map(|lookup| lookup.verdict)
        .collect();
    assert!(verdicts.contains(&Verdict::Allow) && verdicts.contains(&Verdict::Deny));
    // Before it, the same command went through.
    shown.worked_outside().refused(&ended);
    let refused = ended.findings("denied_dependency");
    assert_eq!(refused[0].reason.as_deref(), Some("changed"));
    // The run is over.
    world
        .guard()
        .blackstart(&["reload", "changing"])
        .exits(1)
        .warns("no run");
}

#[test]
fn the_policy_of_a_run_that_waits_for_its_leftovers_is_changed() {
    let (world, _) = world("reload-waits");
    let go = world.dir().join("go");
    // The shell that is guarded ends at once; what it leaves behind is waited for.
    let script = format!(
        "setsid sh -c 'until [ -e {go} ]; do sleep 0.05; done; {curl}; echo left $?' & echo main $$",
        curl = CURL.join(" "),
        go = go.display()
    );
    let file = world.file("waiting.yaml", &whole("rules: []"));
    let mut run = world
        .guard()
        .policy_path(&file)
        .arg("--service=waiting")
        .arg("--leftover=wait")
        .start(&["sh", "-c", &script]);
    run.running().wait_for("main ");
    let told = run.running().stdout();
    let main = told.trim().rsplit(' ').next().unwrap();
    let main = std::path::Path::new("/proc").join(main);
    let begin = std::time::Instant::now();
    while main.exists() {
        assert!(begin.elapsed() < Duration::from_secs(20), "{told}");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::fs::write(&file, whole("rules:\n  - deny: .github.com")).unwrap();
    world
        .guard()
        .blackstart(&["reload", "waiting"])
        .exits(0)
        .within(Duration::from_secs(30));
    std::fs::write(&go, "").unwrap();
    let ended = run.wait().exits(0).says("left 6");
    assert_eq!(ended.verdict_on("api.github.com"), Verdict::Deny);
    assert_eq!(ended.report().run.reloads.len(), 1);
}

#[test]
fn a_run_that_lost_its_supervisor_keeps_its_policy_and_says_so() {
    let (world, _) = world("reload-orphan");
    let go = world.dir().join("go");
    let out = world.dir().join("looked");
    let script = format!(
        "echo ready; until [ -e {go} ]; do sleep 0.05; done; {curl}; echo $? >{out}.new; mv {out}.new {out}",
        curl = CURL.join(" "),
        go = go.display(),
        out = out.display()
    );
    let file = world.file("orphan.yaml", &whole("rules:\n  - deny: .github.com"));
    let mut run = world
        .guard()
        .policy_path(&file)
        .arg("--service=orphan")
        .start(&["sh", "-c", &script]);
    run.running().wait_for("ready");
    run.running().signal(rustix::process::Signal::KILL);
    run.wait();
    std::fs::write(&file, whole("rules: []")).unwrap();
    world
        .guard()
        .blackstart(&["reload", "orphan"])
        .exits(1)
        .warns("its supervisor has ended")
        .warns("goes on under its old policy");
    // So it does.
    std::fs::write(&go, "").unwrap();
    let begin = std::time::Instant::now();
    while !out.exists() {
        assert!(
            begin.elapsed() < Duration::from_secs(40),
            "it has not ended"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_ne!(std::fs::read_to_string(&out).unwrap().trim(), "0");
    // The next command sweeps it.
    let begin = std::time::Instant::now();
    while !world.left_behind().is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(20));
        world.guard().run(&["true"]).exits(0);
    }
}

fn whole(rest: &str) -> String {
    format!("apiVersion: blackstart.dev/v1\nkind: Policy\nmode: enforce\n{rest}\n")
}

#[test]
fn broken_glass_lets_everything_pass_and_says_so() {
    let (world, _) = world("glass");
    let policy = "mode: enforce\nrules:\n  - deny: .github.com\n";
    let run = broken(world.guard().policy(policy)).run(CURL).exits(0);
    assert_eq!(run.verdict_on("api.github.com"), Verdict::BreakGlass);
    assert_eq!(
        run.report().run.break_glass.as_deref(),
        Some("the site is down")
    );
    assert_eq!(run.findings("break_glass").len(), 1);
    // Not even a policy that cannot be read is in the way.
    let wrong = world.file("wrong.yaml", "mode: [");
    broken(world.guard().policy_path(&wrong))
        .run(CURL)
        .exits(0)
        .within(Duration::from_secs(30));
}

fn broken(guard: blackstart_lab::Guard<'_>) -> blackstart_lab::Guard<'_> {
    guard.arg("--break-glass=the site is down")
}

/// A name on a content network, whose CNAME leads to a name that other rules are about.
fn chained(test: &str) -> (World, blackstart_lab::Node) {
    let world = World::new(test);
    let github = world.node("github");
    github.http();
    world.dns(
        Zone::new()
            .cname("api.github.com", "lb.github.com")
            .host("lb.github.com", &github)
            .cname("api.x.example", "x.cdn.example")
            .host("x.cdn.example", &github),
    );
    (world, github)
}

/// A waiver covers a name and the addresses leased under it, wherever its CNAMEs lead.
#[test]
fn a_waiver_holds_for_a_name_that_is_an_alias() {
    let shown = case!(19, "a waiver for an alias, and what it leads to");
    let (world, _) = chained("waived-alias");
    let denied = "mode: enforce\nrules:\n  - deny: .github.com\n";
    shown.outside(&world.run(CURL));
    world.guard().policy(denied).run(CURL).exits(6);
    let waived = format!(
        "{denied}waivers:\n  - for: api.github.com\n    owner: team-db\n    reason: until the mirror has it\n    expires: 2999-12-31\n"
    );
    let run = world.guard().policy(&waived).run(CURL).exits(0);
    assert_eq!(run.verdict_on("api.github.com"), Verdict::Waived);
    // Not for the name that it leads to.
    let other = CURL.join(" ").replace("api.", "lb.");
    let other = ["sh", "-c", &other];
    shown.refused(&world.guard().policy(&waived).run(&other).exits(6));
}

/// What is only recorded of a link takes nothing away from what is enforced for the name, and adds nothing to it.
#[test]
fn an_observed_rule_about_an_alias_switches_off_no_enforced_one() {
    let (world, server) = chained("observed-alias");
    let observed = "mode: enforce\nrules:\n  - {deny: .cdn.example, mode: observe}\n";
    let client = ["curl", "-sS", "-m", "20", "http://api.x.example/"];
    let run = world.guard().policy(observed).run(&client).exits(0);
    assert_eq!(run.flow(server.v4(), 80).verdict, Verdict::WouldDeny);
    // For another port only, so that the lookup passes and the connect is what is judged.
    let own = format!("{observed}  - deny: api.x.example:80\n");
    let run = world.guard().policy(&own).run(&client).exits(7);
    assert_eq!(run.flow(server.v4(), 80).verdict, Verdict::Deny);
    let floor = whole("rules:\n  - {deny: \"api.x.example:80\", final: true}\n");
    let guardrails = world.dir().join("guardrails");
    std::fs::create_dir(&guardrails).unwrap();
    std::fs::write(guardrails.join("floor.yaml"), floor).unwrap();
    let run = world
        .guard()
        .policy(observed)
        .env("BLACKSTART_GUARDRAILS", &guardrails.to_string_lossy())
        .run(&client)
        .exits(7);
    assert_eq!(run.flow(server.v4(), 80).verdict, Verdict::Deny);
}

/// A guardrail and the run's own file may say the same in the same words, and a policy that takes over may have moved a
/// line: what is told of a refusal names the rule that did it.
#[test]
fn of_rules_with_the_same_text_the_one_that_refused_is_named() {
    let (world, _) = world("same-text");
    let guardrails = world.dir().join("guardrails");
    std::fs::create_dir(&guardrails).unwrap();
    let floor =
        whole("rules:\n  - deny: .github.com\n    final: true\n    reason: the host says so");
    std::fs::write(guardrails.join("floor.yaml"), floor).unwrap();
    let own = "mode: enforce\nrules:\n  - deny: .github.com\n    reason: the run says so\n";
    let run = world
        .guard()
        .policy(own)
        .env("BLACKSTART_GUARDRAILS", &guardrails.to_string_lossy())
        .run(CURL)
        .exits(6);
    let finding = run.findings("denied_dependency")[0].clone();
    let place = finding.place.expect("where the rule stands");
    assert_eq!(place.file, guardrails.join("floor.yaml").to_string_lossy());
    assert_eq!(finding.reason.as_deref(), Some("the host says so"));
    let told = run.ended.stderr.matches("floor.yaml:5").count();
    assert_eq!(told, 2, "a line and the summary: {}", run.ended.stderr);
    assert!(
        !run.ended.stderr.contains("the run says so"),
        "{}",
        run.ended.stderr
    );

    let rules = ["deny: .example.org", "deny: .github.com"].map(|rule| format!("  - {rule}\n"));
    let before = whole(&format!("rules:\n{}", rules.concat()));
    let after = whole(&format!(
        "rules:\n  - allow: .example.net\n{}",
        rules.concat()
    ));
    let file = world.file("moved.yaml", &before);
    let go = world.dir().join("moved-go");
    let line = format!(
        "echo ready; until [ -e {} ]; do sleep 0.1; done; {}",
        go.display(),
        CURL.join(" ")
    );
    let mut run = world
        .guard()
        .policy_path(&file)
        .arg("--service=moved")
        .start(&["sh", "-c", &line]);
    run.running().wait_for("ready");
    std::fs::write(&file, after).unwrap();
    world.guard().blackstart(&["reload", "moved"]).exits(0);
    std::fs::write(&go, "").unwrap();
    let run = run.wait().exits(6);
    let finding = run.findings("denied_dependency")[0].clone();
    assert_eq!(finding.place.map(|place| place.line), Some(7));
    assert!(
        run.ended.stderr.contains("moved.yaml:7"),
        "{}",
        run.ended.stderr
    );
    assert!(
        !run.ended.stderr.contains("moved.yaml:6"),
        "{}",
        run.ended.stderr
    );
}

/// What `policy explain` says of an attempt stands at a refusal of it in the summary: the lease or the addresses that
/// mattered, and which rules lost, and why.
#[test]
fn the_summary_explains_a_refusal() {
    let (world, github) = world("explained");
    let address = github.v4().to_string();
    let wide = format!("{address}/32");
    let policy = format!(
        "mode: enforce\nrules:\n  - deny: {wide}\n  - allow: api.github.com\n  - {{allow: \"{address}:80\", process: wget}}\n  - {{deny: github.com, process: \"ancestor:sh\"}}\n  - {{allow: .github.com, process: curl}}\n"
    );
    let url = format!("http://{address}/");
    let of_address = ["curl", "-sS", "-m", "20", "-o", "/dev/null", &url];
    let run = world.guard().policy(&policy).run(&of_address).exits(7);
    let told = &run.ended.stderr;
    assert!(told.contains("from  the addresses"), "{told}");
    let over_v4 = [&CURL[..1], &["-4"], &CURL[1..]].concat();
    let run = world.guard().policy(&policy).run(&over_v4).exits(7);
    let told = &run.ended.stderr;
    let lost = "over  allow api.github.com (";
    assert!(
        told.contains("from  the addresses") && told.contains(lost),
        "{told}"
    );
    // By a rule about what started it.
    let line = CURL.join(" ").replace("api.", "");
    let run = world
        .guard()
        .policy(&policy)
        .run(&["sh", "-c", &format!("{line}; exit $?")])
        .exits(6);
    let told = &run.ended.stderr;
    let lost = "over  allow .github.com, process curl (";
    let why = "): the other describes the name more closely";
    assert!(told.contains(lost) && told.contains(why), "{told}");
}
