//! From what runs did to a policy that they pass: the history, what is learned from it, and what is held against it.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use blackstart_core::report::{Report, Verdict, told_by_another};
use blackstart_lab::{Guard, Guarded, World, Zone};
use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

/// A deployment, and the servers around it.
struct Scene {
    world: World,
}

/// What each deployment fetches.
const USUAL: &[&str] = &["http://mirror.internal/", "http://registry.internal:8080/"];

impl Scene {
    fn new(name: &str) -> Self {
        let world = World::new(name);
        let mut zone = Zone::new();
        // The mirror has another address each time.
        let mirror = world.node("mirror");
        mirror.http();
        zone = zone.a("mirror.internal", mirror.v4());
        for last in 200..204 {
            let mut octets = mirror.v4().octets();
            octets[3] = last;
            mirror.add_address(octets.into());
            zone = zone.a("mirror.internal", octets.into());
        }
        let registry = world.node("registry");
        registry.http_on(8080);
        let github = world.node("github");
        github.http();
        world.dns(
            zone.rotates("mirror.internal")
                .host("registry.internal", &registry)
                .host("api.github.com", &github)
                .cname("assets.internal", "api.github.com"),
        );
        Self { world }
    }

    fn script(&self, name: &str, text: &str) -> PathBuf {
        self.world.file(name, &format!("#!/bin/sh\n{text}\n"))
    }

    /// A deployment that fetches from these, one after the other, and fails if one of them fails.
    fn deploy(&self, urls: &[&str], guard: Guard<'_>) -> Guarded {
        let lines = urls
            .iter()
            .map(|url| format!("curl -sS -m 20 -o /dev/null {url} || exit 1"));
        let path = self.script("deploy.sh", &lines.collect::<Vec<_>>().join("\n"));
        guard.run(&[path.display().to_string()])
    }

    fn observed(&self) -> Guard<'_> {
        self.world.guard().arg("--service=mysql")
    }

    fn blackstart(&self, words: &[&str], code: i32) -> String {
        let ended = self.world.guard().blackstart(words);
        assert_eq!(ended.code, code, "{words:?}: {ended:?}");
        ended.stdout
    }

    fn json(&self, words: &[&str], code: i32) -> Value {
        let text = self.blackstart(&[words, &["--format", "json"]].concat(), code);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }
}

/// How often the same deployment is enforced; `BLACKSTART_REPEATS` says how often, where there is time for more.
fn repeats() -> u64 {
    std::env::var("BLACKSTART_REPEATS").map_or(5, |text| {
        text.parse().expect("BLACKSTART_REPEATS is a number")
    })
}

/// What was refused of a run, in deed or for the record, without what only asked for the way to something else: as a
/// backtest tells it.
fn refused(report: &Report) -> BTreeSet<[String; 4]> {
    let word = |verdict| match verdict {
        Verdict::Deny => Some("deny".to_owned()),
        Verdict::WouldDeny => Some("would_deny".to_owned()),
        _ => None,
    };
    let names = report.names.iter().filter_map(|it| {
        let verdict = word(it.verdict)?;
        Some([
            "lookup".to_owned(),
            it.name.clone(),
            it.rule.clone(),
            verdict,
        ])
    });
    let flows = report.flows.iter().zip(told_by_another(&report.flows));
    let flows = flows.filter(|(flow, told)| !(*told || flow.is_route_probe() && flow.port == 0));
    let flows = flows.filter_map(|(it, _)| {
        let verdict = word(it.verdict)?;
        let host = it.name.clone().unwrap_or(it.address.to_string());
        let protocol = match it.protocol.as_str() {
            "tcp" => String::new(),
            other => format!("/{other}"),
        };
        let destination = format!("{host}:{}{protocol}", it.port);
        Some(["connect".to_owned(), destination, it.rule.clone(), verdict])
    });
    names.chain(flows).collect()
}

#[test]
fn a_learned_policy_lets_the_same_deployment_through_and_nothing_else() {
    let scene = Scene::new("learn");
    for _ in 0..2 {
        scene.deploy(USUAL, scene.observed()).exits(0);
    }
    let policy = scene.blackstart(
        &["policy", "learn", "--service", "mysql", "--since", "1d"],
        0,
    );
    for wanted in [
        "- allow: mirror.internal:80",
        "- allow: registry.internal:8080",
        "# 2 of 2 runs",
        "curl",
    ] {
        assert!(policy.contains(wanted), "{wanted}: {policy}");
    }
    assert!(!policy.contains("github"), "{policy}");
    let file = scene.world.file("mysql.yaml", &policy);
    let path = file.display().to_string();
    scene.blackstart(&["policy", "check", &path], 0);
    let test = scene.json(&["policy", "backtest", &path], 0);
    assert_eq!((&test["runs"], &test["refused"]), (&2.into(), &0.into()));

    let enforced = || scene.observed().policy_path(&file).arg("--mode=enforce");
    let repeats = repeats();
    for _ in 0..repeats {
        let run = scene.deploy(USUAL, enforced()).exits(0);
        assert_eq!(refused(run.report()), BTreeSet::new());
    }
    // Outside it works, and the policy that was learned refuses it.
    let more = [USUAL, &["http://api.github.com/"]].concat();
    let run = scene.deploy(&more, enforced()).exits(1);
    assert_eq!(run.verdict_on("api.github.com"), Verdict::Deny);
    let changes = scene.json(&["runs", "diff", "latest"], 0);
    assert_eq!(changes["earlier_runs"], 2 + repeats);
    assert_eq!(
        changes["new"]["names"],
        serde_json::json!(["api.github.com"])
    );
    assert_eq!(changes["gone"]["destinations"], serde_json::json!([]));
    // It would have been told by the past as well, had it been observed before.
    scene.deploy(&more, scene.observed()).exits(0);
    let test = scene.json(&["policy", "backtest", &path], 1);
    assert_eq!(
        (&test["runs"], &test["runs_refused"]),
        (&(4 + repeats).into(), &2.into())
    );
    let told = scene.blackstart(&["policy", "backtest", &path], 1);
    let runs = format!("in 2 of {} runs of mysql", 4 + repeats);
    for wanted in [&runs, "api.github.com (lookup)", "deploy.sh → curl"] {
        assert!(told.contains(wanted), "{wanted}: {told}");
    }
}

#[test]
fn a_backtest_says_what_a_live_run_does() {
    let scene = Scene::new("backtest");
    let literal = scene.world.node("literal");
    literal.http();
    let line = format!(
        "for url in mirror.internal registry.internal:8080 api.github.com assets.internal {}; do\n\
         curl -sS -m 20 -o /dev/null http://$url/ || true\ndone\n\
         python3 -c \"import urllib.request as r; r.urlopen('http://mirror.internal/', timeout=20)\" || true",
        literal.v4()
    );
    let script = scene.script("all.sh", &line).display().to_string();
    let run = |guard: Guard<'_>| guard.run(&[script.as_str()]).exits(0);
    run(scene.observed());
    let address = literal.v4();
    for (number, text) in [
        "rules:\n  - deny: .github.com\n".to_owned(),
        format!("rules:\n  - deny: {address}:80\n  - deny: mirror.internal\n    process: curl\n"),
        "rules:\n  - deny: registry.internal:1-9000\n  - deny: mirror.internal:443\n".to_owned(),
        "default: deny\nrules:\n  - allow: mirror.internal:80\n".to_owned(),
        format!("default: deny\nrules:\n  - allow: .internal\n  - deny: .github.com\n    mode: observe\n  - allow: {address}\n"),
        "default: deny\nrules: []\n".to_owned(),
    ]
    .iter()
    .enumerate()
    {
        let policy = format!("apiVersion: blackstart.dev/v1\nkind: Policy\nmode: enforce\n{text}");
        let file = scene.world.file(&format!("policy-{number}.yaml"), &policy);
        let test = scene.world.guard().blackstart(&[
            "policy",
            "backtest",
            "--service=mysql",
            "--format=json",
            &file.display().to_string(),
        ]);
        let test: Value = serde_json::from_str(&test.stdout).unwrap();
        assert_eq!(test["runs"], 1, "{test:#}");
        let text_of = |value: &Value| value.as_str().unwrap().to_owned();
        let refusals = test["refusals"].as_array().unwrap().iter();
        let foreseen: BTreeSet<_> = refusals
            .map(|it| {
                let rule = match text_of(&it["rule"]["text"]) {
                    rule if rule.starts_with("default") => "default".to_owned(),
                    rule => rule,
                };
                [
                    text_of(&it["act"]),
                    text_of(&it["destination"]),
                    rule,
                    text_of(&it["verdict"]),
                ]
            })
            .collect();
        // Under another name, so that the next policy is held against the first run alone.
        let live = run(scene.world.guard().policy_path(&file).arg("--service=live"));
        assert_eq!(foreseen, refused(live.report()), "{text}");
        assert!(!foreseen.is_empty(), "{text}");
    }
}

#[test]
fn a_run_is_shown_again_exported_and_pruned() {
    let scene = Scene::new("runs");
    let report = scene
        .deploy(USUAL, scene.observed())
        .exits(0)
        .report()
        .clone();
    let id = report.run.id.as_str();
    let list = scene.json(&["runs", "list"], 0);
    assert_eq!(
        (&list["total"], &list["runs"][0]["id"]),
        (&1.into(), &id.into())
    );
    assert_eq!(list["runs"][0]["exit_code"], 0);
    let shown = scene.json(&["runs", "show", &id[24..]], 0);
    assert_eq!(serde_json::from_value::<Report>(shown).unwrap(), report);
    let page = scene.world.dir().join("page.html");
    let told = scene.blackstart(
        &[
            "runs",
            "show",
            "latest",
            "--report",
            &page.display().to_string(),
        ],
        0,
    );
    assert!(told.contains("mirror.internal"), "{told}");
    assert!(
        fs::read_to_string(&page)
            .unwrap()
            .contains("registry.internal")
    );
    let exported = scene.blackstart(&["runs", "export"], 0);
    assert_eq!(exported.lines().count(), 1);
    assert_eq!(serde_json::from_str::<Report>(&exported).unwrap(), report);

    let files = scene.world.guard().state().join("runs").join(id);
    let dry = scene.json(&["runs", "prune", "--larger-than", "0MiB", "--dry-run"], 0);
    assert_eq!(
        (&dry["done"], &dry["removed"][0]["id"]),
        (&false.into(), &id.into())
    );
    assert!(files.exists());
    scene.blackstart(&["runs", "prune", "--larger-than", "0MiB"], 0);
    assert!(!files.exists());
    assert_eq!(scene.json(&["runs", "list"], 0)["total"], 0);
    scene.blackstart(&["runs", "show", "latest"], 1);
}

#[test]
fn a_history_that_cannot_be_written_changes_nothing_of_a_run() {
    let scene = Scene::new("unwritable");
    let state = scene.world.guard().state();
    let database = state.join("history.db");
    let runs = || scene.json(&["runs", "list"], 0)["total"].clone();
    let guard = || scene.world.guard();
    guard().run(&["true"]).exits(0);
    assert_eq!(runs(), 1);

    // Damaged: set aside as it is, and made anew of the files that are there.
    fs::write(&database, b"what somebody wanted to keep").unwrap();
    guard()
        .run(&["sh", "-c", "exit 7"])
        .exits(7)
        .warns("what was the history is now");
    let kept = fs::read(state.join("history.db.set-aside-1")).unwrap();
    assert_eq!(kept, b"what somebody wanted to keep");
    assert_eq!(runs(), 2);

    // Somebody else has it: the run does not wait, and is taken in later.
    let lock = fs::File::open(state.join("history.lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let busy = guard().run(&["true"]).exits(0);
    assert!(!busy.ended.stderr.contains("history"), "{:?}", busy.ended);
    drop(lock);
    assert_eq!(runs(), 3);

    // What runs leave beside the file, the timer's command brings into it, and says nothing.
    let log = || fs::metadata(state.join("history.db-wal")).map_or(0, |it| it.len());
    guard().run(&["true"]).exits(0);
    assert!(log() > 0);
    let swept = scene.world.guard().blackstart(&["sweep"]).exits(0);
    assert_eq!((swept.stdout.as_str(), swept.stderr.as_str()), ("", ""));
    assert_eq!(log(), 0);
    assert_eq!(runs(), 4);

    // No room, neither for the history nor for anything else of a run.
    let full = r#"mount -t tmpfs -o mode=0700,size=64k none "$BLACKSTART_STATE" && mkdir "$BLACKSTART_STATE/runs" && dd if=/dev/zero of="$BLACKSTART_STATE/rest" bs=4k 2>/dev/null; exec "$@""#;
    let inside = |script: &str| -> Vec<String> {
        let words = ["unshare", "-m", "sh", "-c", script, "sh"];
        words.iter().map(|&word| word.to_owned()).collect()
    };
    guard()
        .through(inside(full))
        .run(&["sh", "-c", "exit 3"])
        .exits(3);

    // Read-only: what is there is told, what is not is said to be missing.
    guard().run(&["true"]).exits(0);
    let before = fs::read(&database).unwrap();
    let read_only = r#"mount --bind "$BLACKSTART_STATE" "$BLACKSTART_STATE" && mount -o remount,ro,bind "$BLACKSTART_STATE"; exec "$@""#;
    guard()
        .through(inside(read_only))
        .run(&["sh", "-c", "exit 5"])
        .exits(5);
    let mut line = inside(read_only);
    line.extend([
        blackstart_lab::guard::binary(),
        "runs".to_owned(),
        "list".to_owned(),
    ]);
    let mut command = scene.world.host().command(&line);
    let told = command.env("BLACKSTART_STATE", &state).output().unwrap();
    assert_eq!(told.status.code(), Some(0), "{told:?}");
    let text = String::from_utf8(told.stdout).unwrap();
    assert_eq!(
        text.lines().count(),
        6,
        "five runs below their heading: {text}"
    );
    assert_eq!(fs::read(&database).unwrap(), before);
}

#[test]
fn a_rule_that_runs_meet_is_not_promoted_and_one_of_today_not_yet() {
    let scene = Scene::new("promote");
    let file = scene.world.file(
        "ladder.yaml",
        "apiVersion: blackstart.dev/v1\nkind: Policy\nservice: mysql\nrules:\n  - deny: .github.com\n  - deny: telemetry.internal # none of ours\n",
    );
    let path = file.display().to_string();
    let observed = || scene.world.guard().policy_path(&file);
    scene
        .deploy(&["http://api.github.com/"], observed())
        .exits(0);
    let answer = scene.json(&["policy", "promote", "--quiet-for=1m", &path], 0);
    let rules = answer["rules"].as_array().unwrap();
    let of = |rule: &Value| {
        let text = |key: &str| rule[key].as_str().unwrap().to_owned();
        [text("text"), text("rung"), text("change")]
    };
    assert_eq!(
        rules.iter().map(of).collect::<Vec<_>>(),
        [
            ["deny .github.com", "observe", "not_quiet"].map(str::to_owned),
            ["deny telemetry.internal", "observe", "too_short"].map(str::to_owned),
        ]
    );
    assert!(rules[0]["attempts"].as_u64() > Some(0), "{answer:#}");
    assert_eq!(answer["incomplete_runs"], 0, "{answer:#}");
    // The same run, as if it had been long ago: the history takes times from the report.
    let report = fs::read_dir(scene.world.guard().state().join("runs"))
        .unwrap()
        .flatten()
        .map(|run| run.path().join("report.json"))
        .find(|report| report.exists())
        .unwrap();
    let text = fs::read_to_string(&report).unwrap();
    let this_year = text.split("\"started\":").nth(1).unwrap();
    let this_year: String = this_year
        .trim_start_matches([' ', '"'])
        .chars()
        .take(5)
        .collect();
    fs::write(&report, text.replace(&format!("\"{this_year}"), "\"2020-")).unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let database = scene
            .world
            .guard()
            .state()
            .join(format!("history.db{suffix}"));
        let _absent = fs::remove_file(database);
    }
    scene.deploy(&USUAL[..1], observed()).exits(0);
    let answer = scene.json(&["policy", "promote", "--write", &path], 0);
    assert_eq!(answer["runs"], 2);
    assert_eq!(answer["written"], true, "{answer:#}");
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("  - deny: .github.com\n    mode: enforce\n")
            && text.contains("# none of ours\n    mode: enforce\n"),
        "{text}"
    );
    // What it says is what happens from now on.
    let run = scene
        .deploy(&["http://api.github.com/"], observed())
        .exits(1);
    assert_eq!(run.verdict_on("api.github.com"), Verdict::Deny);
}
